"""Learned priors written from docs/coding.md alone: plain Python numbers, no code shared with vidtok, no numpy."""

from __future__ import annotations

import json
from math import exp

ORDER = [(0, 0), (1, 1), (0, 1), (1, 0)]
EXP = [round(65536 * exp(-i / 16)) for i in range(256)]


def read_prior(data):
    """The config, and tensors as nested lists."""
    length = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    tensors = {}
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        width = {"I8": 1, "I16": 2}[entry["dtype"]]
        begin, end = entry["data_offsets"]
        flat = [int.from_bytes(body[i : i + width], "little", signed=True) for i in range(begin, end, width)]
        columns = entry["shape"][-1]
        rows = [flat[i : i + columns] for i in range(0, len(flat), columns)]
        tensors[name] = rows if len(entry["shape"]) == 2 else flat
    return json.loads(head["__metadata__"]["config"]), tensors


def joint_levels(digits, most, free):
    levels, tied = [], len(digits) - free
    for digit in digits[:tied]:
        if levels and levels[-1] * digit <= most:
            levels[-1] *= digit
        else:
            levels.append(digit)
    return levels + digits[tied:]


def near(number):
    """Neighbours (y, x) of a cell of a pass whose own pass is earlier, in reading order."""
    y, x = ORDER[number]
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return [(dy, dx) for dy, dx in around if ORDER.index(((y + dy) % 2, (x + dx) % 2)) < number]


def turns():
    """Of free symbols: step, first cell, and distances of neighbours that are known."""
    found = [(4, (0, 0), [])]
    for unit in (2, 1):
        for number in (1, 2, 3):
            y, x = ORDER[number]
            found.append((2 * unit, (y * unit, x * unit), [(dy * unit, dx * unit) for dy, dx in near(number)]))
    return found


def value(total):
    return max(0, min(127, total >> 7))


class Lanes:
    def __init__(self, data):
        count = 1 << data[0]
        self.states = [int.from_bytes(data[1 + 4 * i : 5 + 4 * i], "little") for i in range(count)]
        self.data, self.at = data, 1 + 4 * count

    def take(self, tables):
        """A batch: for each cell its shares; the symbols."""
        found = []
        for i, table in enumerate(tables):
            lane = i % len(self.states)
            x = self.states[lane]
            symbol, low = 0, 0
            while low + table[symbol] <= x % 65536:
                low += table[symbol]
                symbol += 1
            x = table[symbol] * (x // 65536) + x % 65536 - low
            if x < 65536:
                x = x * 65536 + int.from_bytes(self.data[self.at : self.at + 2], "little")
                self.at += 2
            self.states[lane] = x
            found.append(symbol)
        return found

    def end(self):
        return all(x == 65536 for x in self.states) and not any(self.data[self.at :])


def shares(logits):
    top, n = max(logits), len(logits)
    weights = [EXP[min(255, top - x)] for x in logits]
    table = [1 + e * (65536 - n) // sum(weights) for e in weights]
    table[logits.index(top)] += 65536 - sum(table)
    return table


class Prior:
    """The stages of a chunk, one after the other."""

    def __init__(self, config, tensors, first):
        self.c, self.t, self.first = config, tensors, first
        self.free = config.get("free", 0)
        self.levels = joint_levels(config["digits"], config["joint"], self.free)
        self.tied = len(self.levels) - self.free
        rows = [n if k == 0 else n * self.levels[0] for k, n in enumerate(self.levels[: self.tied])]
        self.starts = [sum(self.levels[:k]) for k in range(len(self.levels))]
        self.tables = [sum(rows[:k]) for k in range(len(rows))]
        self.memory = None

    def symbols_of(self, number):
        out = []
        for n in self.levels:
            out.append(number % n)
            number //= n
        return out

    def id_of(self, symbols):
        number = 0
        for n, s in zip(reversed(self.levels), reversed(symbols), strict=True):
            number = number * n + s
        return number

    def row(self, name, k, symbols):
        return self.t[name][self.tables[k] + symbols[k] + (symbols[0] * self.levels[k] if k else 0)]

    def free_row(self, name, k, symbol):
        return self.t[name][sum(self.levels[self.tied : self.tied + k]) + symbol]

    def embed(self, symbols, number):
        rows = [self.row("embed", k, symbols) for k in range(self.tied)]
        if number == 0:
            rows += [self.free_row("free_embed", k, s) for k, s in enumerate(symbols[self.tied :])]
        return [max(0, min(127, sum(column))) for column in zip(*rows, strict=True)]

    def surroundings(self, plane, y, x):
        size = self.c["state"] + self.c["embedding"]
        blank = [0] * size
        places = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        return [v for place in places for v in plane.get(place, blank)]

    def free_symbols(self, stream, h, w, sums, past):
        """Of all cells of a latent frame, from the sums of what is known before it."""
        T, size, got = self.t, self.c["hidden"], {}
        for turn, (step, (top, left), neighbours) in enumerate(turns()):
            cells = [(y, x) for y in range(top, h, step) for x in range(left, w, step)]
            begin = sum(1 + len(n) for _, _, n in turns()[:turn])
            hidden, sources = {}, {}
            for y, x in cells:
                hidden[y, x] = list(T["free_bias"])
                features = [value(a + b) for a, b in zip(sums[y, x], T["free_pass"][0], strict=True)]
                add(hidden[y, x], features, T["free"])
                sources[y, x] = [past.get((y, x)), *(got.get((y + dy, x + dx)) for dy, dx in neighbours)]
                got[y, x] = []
            for k in range(self.free):
                n = self.levels[self.tied + k]
                tables = []
                for cell in cells:
                    h_k = [value(v) for v in hidden[cell][k * size : (k + 1) * size]]
                    start = sum(self.levels[: self.tied + k])
                    logits = [T["tell_bias"][r] + dot(T["tell"][r], h_k) for r in range(start, start + n)]
                    for i, source in enumerate(sources[cell]):
                        if source is None:
                            continue
                        row = 2 * (k * 39 + begin + i) + (source[:k] != got[cell])
                        logits[source[k]] += T["copy_bias"][row] + dot(T["copy"][row], h_k)
                    tables.append(shares([v >> 7 for v in logits]))
                for cell, s in zip(cells, stream.take(tables) if n > 1 else [0] * len(cells), strict=True):
                    got[cell].append(s)
                    hidden[cell] = [
                        a + b for a, b in zip(hidden[cell], self.free_row("free_before", k, s), strict=True)
                    ]
        return got

    def known(self, before, below, number, now, y, x):
        T = self.t
        places = (T["known_stage"][number], T["known_phase"][(self.first + now) % self.c["period"]])
        blank = [0] * self.c["features"]
        total = [sum(v) for v in zip(*places, blank if now else T["known_first"][0], strict=True)]
        add(total, self.surroundings(before, y, x), T["known"])
        if below:
            add(total, self.surroundings(below[now], y, x), T["below"])
        return total

    def stage(self, t, h, w, ids=None, stream=None):
        """Decode a stage from `stream`, or go through `ids`; flat ids (t, h, w)."""
        T, size = self.t, self.c["hidden"]
        stream = stream and Lanes(stream)
        number = 0 if self.memory is None else self.number + 1
        below, memory, before, out, free = self.memory, [], {}, [], {}
        for now in range(t):
            got, embedded = {}, {}
            if ids is None:
                grid = [(y, x) for y in range(h) for x in range(w)]
                base = {(y, x): self.known(before, below, number, now, y, x) for y, x in grid}
                if number:
                    free = {cell: [n // 2 for n in self.levels[self.tied :]] for cell in grid}
                elif self.free:
                    b = self.c.get("block", 1)
                    leaders = {(y // b, x // b): base[y, x] for y, x in grid if y % b == x % b == 0}
                    past = {(y // b, x // b): free[y, x] for y, x in free if y % b == x % b == 0}
                    told = self.free_symbols(stream, -(-h // b), -(-w // b), leaders, past)
                    free = {(y, x): list(told[y // b, x // b]) for y, x in grid}
                    for cell in grid:
                        for k, s in enumerate(free[cell]):
                            base[cell] = [
                                a + b for a, b in zip(base[cell], self.free_row("free_known", k, s), strict=True)
                            ]
            for turn, (top, left) in enumerate(ORDER):
                cells = [(y, x) for y in range(top, h, 2) for x in range(left, w, 2)]
                if ids is not None:
                    for y, x in cells:
                        got[y, x] = self.symbols_of(ids[(now * h + y) * w + x])
                        embedded[y, x] = self.embed(got[y, x], number)
                    continue
                sums = {}
                for y, x in cells:
                    known = [a + b for a, b in zip(base[y, x], T["known_pass"][turn], strict=True)]
                    tap = sum(len(near(i)) for i in range(turn)) * self.c["embedding"]
                    for dy, dx in near(turn):
                        there = embedded.get((y + dy, x + dx), [0] * self.c["embedding"])
                        add(known, there, T["near"][tap : tap + len(there)])
                        tap += len(there)
                    mixed = list(T["mix_bias"])
                    add(mixed, [value(v) for v in known], T["mix"])
                    sums[y, x] = [value(v) for v in mixed]
                    got[y, x] = []
                for k, n in enumerate(self.levels[: self.tied]):
                    tables = []
                    for cell in cells:
                        if k == 0:
                            first = list(T["first_bias"])
                            add(first, sums[cell], T["first"])
                        hidden = [value(v) for v in (sums[cell][(k - 1) * size : k * size] if k else first)]
                        rows = range(self.starts[k], self.starts[k] + n)
                        tell = [T["tell_bias"][r] + dot(T["tell"][r], hidden) for r in rows]
                        tables.append(shares([v >> 7 for v in tell]))
                    chosen = stream.take(tables) if n > 1 else [0] * len(cells)
                    for cell, s in zip(cells, chosen, strict=True):
                        got[cell].append(s)
                        if k == 0:
                            values, sums[cell] = sums[cell], [0] * (size * (self.tied - 1))
                            add(sums[cell], values, T["others"][s * len(values) : (s + 1) * len(values)])
                        sums[cell] = [a + b for a, b in zip(sums[cell], self.row("before", k, got[cell]), strict=True)]
                for cell in cells:
                    got[cell] += free.get(cell, [])
                    embedded[cell] = self.embed(got[cell], number)
            blank = [0] * self.c["state"]
            whole = {cell: [*before.get(cell, blank)[: len(blank)], *embedded[cell]] for cell in got}
            before = {}
            for y, x in whole:
                total = list(T["remember_stage"][number])
                add(total, self.surroundings(whole, y, x), T["remember"])
                before[y, x] = [value(v) for v in total] + embedded[y, x]
            memory.append(before)
            out += [self.id_of(got[y, x]) for y in range(h) for x in range(w)]
        self.memory, self.number = memory, number
        assert stream is None or stream.end()
        return out


def add(totals, values, rows):
    for v, row in zip(values, rows, strict=True):
        if v:
            for i, weight in enumerate(row):
                totals[i] += v * weight


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))
