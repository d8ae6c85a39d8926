"use strict";
// Players: source, reconstruction and difference of the same frame on three canvases, always drawn together.
(() => {
  for (const player of document.querySelectorAll(".player")) {
    const fold = player.closest("details");
    const wake = () => {
      if (fold.open && player.hidden) arm(player);
    };
    fold.addEventListener("toggle", wake);
    wake();
  }
  followAnchor();
  window.addEventListener("hashchange", followAnchor);
  saveButton();

  // A link to a clip that is folded opens it.
  function followAnchor() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  }

  function saveButton() {
    const button = document.getElementById("save");
    if (!button) return;
    button.hidden = false;
    button.addEventListener("click", () => {
      const blob = new Blob([document.getElementById("numbers").textContent], { type: "application/json" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "report.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  function arm(player) {
    const data = JSON.parse(player.querySelector("script").textContent);
    const panes = [...player.querySelectorAll(".pane")];
    const canvases = [...player.querySelectorAll("canvas")];
    const slider = player.querySelector("input");
    const output = player.querySelector("output");
    const playButton = player.querySelector("[data-do=play]");
    const choices = Object.fromEntries([...player.querySelectorAll("select")].map((s) => [s.dataset.set, s]));
    const cursors = [...player.closest("details").querySelectorAll(".cursor")];
    const loaded = new Map();
    let run = data.runs[0];
    let at = 0;
    let wanted = 0; // number of the newest wish to draw; older ones give way
    let timer = 0;
    let following = false;

    // The picture with this number, decoded once.
    function picture(number) {
      if (!loaded.has(number)) {
        const image = new Image();
        image.src = "data:image/jpeg;base64," + data.pictures[number];
        loaded.set(number, image.decode().then(() => image));
      }
      return loaded.get(number);
    }

    async function show(place) {
      at = Math.max(0, Math.min(run.frames.length - 1, place));
      slider.value = at;
      const wish = ++wanted;
      const own = run;
      const position = at;
      const images = await Promise.all(canvases.map((canvas) => picture(own[canvas.dataset.pane][position])));
      if (wish !== wanted) return;
      canvases.forEach((canvas, i) => {
        canvas.width = data.width;
        canvas.height = data.height;
        canvas.getContext("2d").drawImage(images[i], 0, 0, data.width, data.height);
        canvas.setAttribute("aria-label", `${panes[i].getAttribute("aria-label")}, frame ${own.frames[position]}`);
      });
      player.dataset.run = data.runs.indexOf(own);
      player.dataset.frame = own.frames[position];
      tell(own, position);
    }

    function tell(own, position) {
      const frame = own.frames[position];
      const seconds = (frame / data.rate).toFixed(2);
      const values = Object.entries(own.values)
        .filter(([, numbers]) => numbers[position] !== null)
        .map(([name, numbers]) => `${name} ${numbers[position].toFixed(Math.abs(numbers[position]) < 1 ? 4 : 2)}`);
      const words = `frame ${frame} of 0 to ${data.total - 1}, ${seconds} s`;
      output.value = [words, ...values].join(" · ");
      slider.setAttribute("aria-valuetext", words);
      for (const cursor of cursors) {
        const { x0, x1, left, right } = cursor.ownerSVGElement.dataset;
        const x = Number(left) + ((frame - x0) / (x1 - x0)) * (right - left);
        cursor.setAttribute("x1", x);
        cursor.setAttribute("x2", x);
        cursor.classList.add("on");
      }
    }

    function playing() {
      return timer !== 0;
    }

    function stop() {
      clearTimeout(timer);
      timer = 0;
      playButton.textContent = "▶";
      playButton.setAttribute("aria-label", "Play");
    }

    function play() {
      if (playing()) return stop();
      playButton.textContent = "❚❚";
      playButton.setAttribute("aria-label", "Pause");
      if (at === run.frames.length - 1) at = -1;
      let due = performance.now();
      const tick = async () => {
        const next = at + 1;
        await show(next);
        if (!playing()) return;
        if (next >= run.frames.length - 1) return stop();
        const frames = run.frames[next + 1] - run.frames[next];
        due = Math.max(performance.now(), due + (frames / data.rate / Number(choices.speed.value)) * 1000);
        timer = setTimeout(tick, due - performance.now());
      };
      timer = setTimeout(tick, 0);
    }

    function step(by) {
      stop();
      show(at + by);
    }

    function zoom() {
      const factor = Number(choices.zoom.value);
      player.classList.toggle("zoomed", factor > 1);
      for (const canvas of canvases) {
        canvas.style.width = factor ? `${data.width * factor}px` : "";
        canvas.style.maxWidth = factor ? "none" : "";
      }
    }

    function gain() {
      const canvas = canvases.find((c) => c.dataset.pane === "difference");
      canvas.style.filter = `contrast(${Number(choices.gain.value) / data.gain})`;
    }

    function choose(select, by) {
      const place = select.selectedIndex + by;
      if (place < 0 || place >= select.length) return;
      select.selectedIndex = place;
      select.dispatchEvent(new Event("change"));
    }

    const keys = {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      Home: () => step(-Infinity),
      End: () => step(Infinity),
      " ": play,
      k: play,
      ",": () => step(-1),
      ".": () => step(1),
      "+": () => choose(choices.zoom, 1),
      "=": () => choose(choices.zoom, 1),
      "-": () => choose(choices.zoom, -1),
      "<": () => choose(choices.speed, -1),
      ">": () => choose(choices.speed, 1),
    };

    player.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
      const target = event.target;
      if (target.tagName === "SELECT") return;
      if (target.tagName === "BUTTON" && event.key === " ") return;
      const scrolls = target.classList.contains("pane") && target.scrollWidth > target.clientWidth;
      if (scrolls && event.key.startsWith("Arrow")) return;
      event.preventDefault();
      keys[event.key]();
    });
    player.querySelector("[data-do=back]").addEventListener("click", () => step(-1));
    player.querySelector("[data-do=next]").addEventListener("click", () => step(1));
    playButton.addEventListener("click", play);
    slider.addEventListener("input", () => {
      stop();
      show(Number(slider.value));
    });
    choices.zoom.addEventListener("change", zoom);
    choices.gain.addEventListener("change", gain);
    if (choices.run) {
      choices.run.addEventListener("change", () => {
        run = data.runs[Number(choices.run.value)];
        slider.max = run.frames.length - 1;
        show(at);
      });
    }
    for (const pane of panes) {
      pane.addEventListener("scroll", () => {
        if (following) return;
        following = true;
        for (const other of panes) {
          other.scrollTop = pane.scrollTop;
          other.scrollLeft = pane.scrollLeft;
        }
        requestAnimationFrame(() => (following = false));
      });
    }
    player.closest("details").addEventListener("toggle", () => {
      if (!player.closest("details").open) {
        stop();
        loaded.clear();
      }
    });
    player.hidden = false;
    show(0);
  }
})();
