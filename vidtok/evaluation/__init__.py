"""The parts of `vidtok.evaluate`: what is measured, how, and how it is summed up.

options    EvalOptions: all that an evaluation can be told
protocols  published ways to evaluate, by name
runs       what codes a clip: a model at a quality, a codec at a crf
codecs     `x264:crf=18..40:preset=medium` -> runs
clip       one run over one clip -> a row
states     what a clip adds to summaries beyond its row: token counts, features
summary    rows -> means, worst clips, intervals
curves     summaries -> rate-distortion curves and Bjontegaard deltas
results    rows in a file, from which an interrupted evaluation goes on
"""
