"use strict";
(() => {
  const data = JSON.parse(document.getElementById("cube-data").textContent);
  const [depth, height, width] = data.shape, lastIsOutput = data.last_is_output, cells = depth * height * width;
  const get = (name) => document.getElementById("cube-" + name);
  for (const field of data.fields) field.values = Uint8Array.from(atob(field.data), (letter) => letter.charCodeAt(0));

  // Viridis, in 9 stops.
  const stops = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
  const scale = Array.from({ length: 256 }, (_, value) => {
    const place = value / 255 * 8, first = Math.min(7, Math.floor(place)), part = place - first;
    return `rgb(${stops[first].map((low, n) => Math.round(low + part * (stops[first + 1][n] - low))).join()})`;
  });
  // Hues a golden angle apart, as in the still figures.
  const topicColour = (topic) => `hsl(${(0.58 + 0.381966 * topic) % 1 * 360} 60% ${[42, 60, 50][topic % 3]}%)`;

  const state = { field: 0, question: 0, step: data.steps - 1, threshold: 0, cut: 0, turn: -0.62, tilt: 0.42 };
  const current = () => data.fields[state.field];
  const offset = () => current().changing ? (state.question * data.steps + state.step) * cells : 0;
  const colour = (value) => current().topics ? topicColour(value) : scale[value];
  const real = (value) => current().low + value / 255 * (current().high - current().low);
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

  const prepare = (canvas, tall) => {
    const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth;
    canvas.width = wide * ratio;
    canvas.height = tall * ratio;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, tall);
    return context;
  };

  const drawSpace = () => {
    const canvas = get("space"), wide = canvas.clientWidth, tall = canvas.clientHeight, context = prepare(canvas, tall);
    const [sinTurn, cosTurn, sinTilt, cosTilt] = [Math.sin(state.turn), Math.cos(state.turn), Math.sin(state.tilt), Math.cos(state.tilt)];
    const largest = Math.hypot(depth, height, width), unit = Math.min(wide, tall) * 0.92 / largest;
    const project = (z, y, x) => {
      const [across, down, deep] = [z - (depth - 1) / 2, y - (height - 1) / 2, x - (width - 1) / 2];
      const right = across * cosTurn + deep * sinTurn, behind = -across * sinTurn + deep * cosTurn;
      const low = down * cosTilt - behind * sinTilt, far = down * sinTilt + behind * cosTilt;
      const size = 1 / (1 + far / (3.2 * largest));
      return [wide / 2 + right * unit * size, tall / 2 + low * unit * size, far, size];
    };
    const face = (z) => [[-0.5, -0.5], [-0.5, width - 0.5], [height - 0.5, width - 0.5], [height - 0.5, -0.5]].map(([y, x]) => project(z, y, x));
    const faces = [[face(-0.6), "input face", "--orange"], [face(depth - 0.4), lastIsOutput ? "output face" : "opposite face", "--blue"]];
    const outline = ([corners, , name]) => {
      context.beginPath();
      corners.forEach(([x, y], n) => n ? context.lineTo(x, y) : context.moveTo(x, y));
      context.closePath();
      context.strokeStyle = variable(name);
      context.lineWidth = 1.5;
      context.stroke();
    };
    // Of two faces the farther one is drawn before the cells, the nearer one after them.
    const away = (corners) => corners.reduce((sum, corner) => sum + corner[2], 0);
    faces.sort((a, b) => away(b[0]) - away(a[0]));
    outline(faces[0]);
    const values = current().values, start = offset(), least = state.threshold / 100 * 255, balls = [];
    for (let z = state.cut, index = state.cut * height * width; z < depth; z++)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++, index++) {
          const value = values[start + index];
          if (!current().topics && value < least) continue;
          balls.push([...project(z, y, x), value]);
        }
    balls.sort((a, b) => b[2] - a[2]);
    for (const [x, y, , size, value] of balls) {
      const share = current().topics ? 0.75 : 0.35 + 0.65 * value / 255;
      context.beginPath();
      context.arc(x, y, 0.44 * unit * size * share, 0, 7);
      context.fillStyle = colour(value);
      context.fill();
    }
    outline(faces[1]);
    context.font = "13px system-ui, sans-serif";
    context.textAlign = "center";
    for (const [corners, text, name] of faces) {
      const [x, y] = corners.reduce((lowest, corner) => corner[1] > lowest[1] ? corner : lowest);
      context.fillStyle = variable(name);
      context.fillText(text, Math.max(40, Math.min(wide - 40, x)), Math.min(tall - 4, y + 18));
    }
  };

  const layout = () => {
    const wide = get("slices").clientWidth, columns = Math.min(depth, Math.max(2, Math.min(4, Math.floor(wide / 120))));
    const gap = 12, tile = (wide - gap * (columns - 1)) / columns, cell = tile / width;
    return { columns, gap, tile, cell, label: 18, rows: Math.ceil(depth / columns), tall: cell * height };
  };
  const drawSlices = () => {
    const canvas = get("slices"), { columns, gap, tile, cell, label, rows, tall } = layout();
    const all = rows * (tall + label + gap);
    canvas.style.height = all + "px";
    const context = prepare(canvas, all), values = current().values, start = offset();
    context.font = "12px system-ui, sans-serif";
    for (let z = 0; z < depth; z++) {
      const left = (z % columns) * (tile + gap), top = Math.floor(z / columns) * (tall + label + gap);
      context.fillStyle = variable("--quiet");
      context.fillText(`layer ${z}${z === 0 ? " (input)" : z === depth - 1 && lastIsOutput ? " (output)" : ""}`, left, top + 12);
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          context.fillStyle = colour(values[start + (z * height + y) * width + x]);
          context.fillRect(left + x * cell, top + label + y * cell, cell + 0.5, cell + 0.5);
        }
    }
  };

  const legend = () => {
    const field = current(), box = get("legend");
    box.replaceChildren();
    const add = (kind, text, parent = box) => {
      const element = document.createElement(kind);
      element.textContent = text;
      parent.append(element);
      return element;
    };
    if (field.topics) {
      const shown = new Set(field.values);
      for (const topic of [...shown].sort((a, b) => a - b)) {
        const entry = add("span", "");
        entry.className = "topic";
        add("i", "", entry).style.background = topicColour(topic);
        add("span", `${topic}: ${field.topics[topic] ?? "topic " + topic}`, entry);
      }
    } else {
      add("span", `${field.label}: ${field.low.toPrecision(3)}`);
      const bar = add("span", "");
      bar.className = "scale";
      bar.style.background = `linear-gradient(to right, ${stops.map((c) => `rgb(${c.join()})`).join()})`;
      add("span", field.high.toPrecision(3));
    }
  };

  const draw = () => {
    const { changing, topics } = current();
    get("question").disabled = get("step").disabled = get("play").disabled = !changing;
    get("threshold").disabled = Boolean(topics);
    get("step").value = state.step;
    get("step-text").textContent = changing ? `${state.step} of ${data.steps - 1}` : "(does not change)";
    get("threshold-text").textContent = topics ? "(these have no order)" : state.threshold ? real(state.threshold / 100 * 255).toPrecision(3) : "(none hidden)";
    get("cut-text").textContent = state.cut ? state.cut : "0 (whole)";
    drawSpace();
    drawSlices();
  };

  const choose = (name, options) => {
    options.forEach((text, value) => get(name).append(new Option(text, value)));
    get(name).addEventListener("change", (event) => { state[name] = Number(event.target.value); legend(); draw(); });
  };
  choose("field", data.fields.map((field) => field.label));
  choose("question", data.questions);
  get("step").max = data.steps - 1;
  get("cut").max = depth - 1;
  for (const name of ["step", "threshold", "cut"])
    get(name).addEventListener("input", (event) => { state[name] = Number(event.target.value); draw(); });

  let playing = null;
  get("play").addEventListener("click", () => {
    if (playing) { clearInterval(playing); playing = null; }
    else playing = setInterval(() => { state.step = (state.step + 1) % data.steps; draw(); }, 350);
    get("play").textContent = playing ? "Pause" : "Play";
  });
  const space = get("space");
  space.addEventListener("pointerdown", (event) => space.setPointerCapture(event.pointerId));
  space.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    state.turn -= event.movementX * 0.008;
    state.tilt = Math.max(-1.5, Math.min(1.5, state.tilt + event.movementY * 0.008));
    drawSpace();
  });
  space.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!turns) return;
    event.preventDefault();
    state.turn += turns[0];
    state.tilt = Math.max(-1.5, Math.min(1.5, state.tilt + turns[1]));
    drawSpace();
  });
  get("slices").addEventListener("pointermove", (event) => {
    const { columns, gap, tile, cell, label, tall } = layout();
    const column = Math.floor(event.offsetX / (tile + gap)), row = Math.floor(event.offsetY / (tall + label + gap));
    const x = Math.floor((event.offsetX - column * (tile + gap)) / cell), y = Math.floor((event.offsetY - row * (tall + label + gap) - label) / cell);
    const z = row * columns + column;
    const inside = z >= 0 && z < depth && x >= 0 && x < width && y >= 0 && y < height && column < columns;
    if (!inside) { get("reading").textContent = ""; return; }
    const value = current().values[offset() + (z * height + y) * width + x];
    const text = current().topics ? current().topics[value] ?? `topic ${value}` : real(value).toPrecision(3);
    get("reading").textContent = `layer ${z}, row ${y}, column ${x}: ${text}`;
  });
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  legend();
  draw();
})();
