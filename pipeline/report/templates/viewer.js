"use strict";
(async () => {
  const about = JSON.parse(document.getElementById("viewer-data").textContent);
  const [X, Y, Z] = about.shape;
  const sheet = document.getElementById("sheet");
  const byId = (id) => document.getElementById(id);

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes);
        controller.close();
      },
    });
    const reader = stream.pipeThrough(new DecompressionStream("deflate")).getReader();
    const whole = new Uint8Array(X * Y * Z);
    let filled = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      whole.set(part.value, filled);
      filled += part.value.length;
    }
    return whole;
  }

  // Axes of each plane: through the slice, to the right, upwards.
  const planes = { sagittal: [0, 1, 2], coronal: [1, 0, 2], axial: [2, 0, 1] };
  const mm = about.spacing;
  const at = about.start.slice();
  const inflated = new Map();
  let reference, mask, doubt, arm = 0;

  async function choose(number) {
    if (!inflated.has(number)) {
      const packed = about.arms[number];
      inflated.set(number, Promise.all([inflate(packed.mask), inflate(packed.entropy)]));
    }
    const [m, d] = await inflated.get(number);
    [arm, mask, doubt] = [number, m, d];
  }

  const offset = (voxel) => voxel[0] + X * (voxel[1] + Y * voxel[2]);
  const steps = [1, X, X * Y];

  function canvas(width, height) {
    const made = document.createElement("canvas");
    made.width = width;
    made.height = height;
    return made;
  }

  // The slice of the image, one canvas pixel a voxel, put together from strips of the sheet's axial tiles.
  function imageSlice(plane) {
    const [through, right, up] = planes[plane];
    const made = canvas(about.shape[right], about.shape[up]);
    const pen = made.getContext("2d");
    pen.imageSmoothingEnabled = false;
    const tile = (z) => [(z % about.columns) * X, Math.floor(z / about.columns) * Y];
    if (plane === "axial") {
      const [left, top] = tile(at[2]);
      pen.drawImage(sheet, left, top, X, Y, 0, 0, X, Y);
      return made;
    }
    for (let z = 0; z < Z; z += 1) {
      const [left, top] = tile(z);
      if (plane === "coronal") {
        pen.drawImage(sheet, left, top + Y - 1 - at[through], X, 1, 0, Z - 1 - z, X, 1);
      } else {
        // A column of the tile, anterior on top, becomes a row with anterior on the right.
        pen.setTransform(0, 1, -1, 0, Y, Z - 1 - z);
        pen.drawImage(sheet, left + at[through], top, 1, Y, 0, 0, 1, Y);
      }
    }
    return made;
  }

  function eachVoxel(plane, visit) {
    const [through, right, up] = planes[plane];
    const [width, height] = [about.shape[right], about.shape[up]];
    for (let row = 0; row < height; row += 1) {
      let index = at[through] * steps[through] + (height - 1 - row) * steps[up];
      for (let column = 0; column < width; column += 1, index += steps[right]) visit(index, column, row);
    }
  }

  function doubtSlice(plane) {
    const [, right, up] = planes[plane];
    const made = canvas(about.shape[right], about.shape[up]);
    const pen = made.getContext("2d");
    const pixels = pen.createImageData(made.width, made.height);
    const [low, high] = about.arms[arm].window;
    eachVoxel(plane, (index, column, row) => {
      const place = 4 * (row * made.width + column);
      pixels.data[place] = 255;
      pixels.data[place + 1] = 40;
      pixels.data[place + 2] = 170;
      pixels.data[place + 3] = 230 * Math.max(0, Math.min(1, (doubt[index] / about.levels - low) / (high - low)));
    });
    pen.putImageData(pixels, 0, 0);
    return made;
  }

  // A grey veil over what nobody has annotated.
  function ignoredSlice(plane) {
    const [, right, up] = planes[plane];
    const made = canvas(about.shape[right], about.shape[up]);
    const pen = made.getContext("2d");
    pen.fillStyle = "rgba(176, 176, 176, 0.5)";
    eachVoxel(plane, (index, column, row) => {
      if (reference[index] === about.ignored) pen.fillRect(column, row, 1, 1);
    });
    return made;
  }

  // Edges between voxels of different labels, in voxels of the slice.
  function outline(plane, labels) {
    const [, right, up] = planes[plane];
    const [width, height] = [about.shape[right], about.shape[up]];
    const path = new Path2D();
    const drawn = (index) => (labels[index] === about.ignored ? 0 : labels[index]);
    eachVoxel(plane, (index, column, row) => {
      const here = drawn(index);
      const beside = column + 1 < width ? drawn(index + steps[right]) : 0;
      const below = row + 1 < height ? drawn(index - steps[up]) : 0;
      if (here !== beside) {
        path.moveTo(column + 1, row);
        path.lineTo(column + 1, row + 1);
      }
      if (here !== below) {
        path.moveTo(column, row + 1);
        path.lineTo(column + 1, row + 1);
      }
      if (here && column === 0) {
        path.moveTo(0, row);
        path.lineTo(0, row + 1);
      }
      if (here && row === 0) {
        path.moveTo(column, 0);
        path.lineTo(column + 1, 0);
      }
    });
    return path;
  }

  // What of a slice is shown: left, top, width and height in its voxels.
  function view(plane) {
    const [, right, up] = planes[plane];
    if (!byId("close-up").checked) return [0, 0, about.shape[right], about.shape[up]];
    const [[left, end], [bottom, top]] = [about.box[right], about.box[up]];
    return [left, about.shape[up] - top, end - left, top - bottom];
  }

  function draw(plane) {
    const shown = byId(plane);
    const [, right, up] = planes[plane];
    const [left, top, width, height] = view(plane);
    const density = Math.max(1, devicePixelRatio);
    const room = Math.max(200, shown.parentElement.clientWidth) * density;
    const fit = Math.min(room / (width * mm[right]), room / (height * mm[up]));
    shown.width = Math.round(width * mm[right] * fit);
    shown.height = Math.round(height * mm[up] * fit);
    const [sx, sy] = [shown.width / width, shown.height / height];
    const pen = shown.getContext("2d");
    pen.drawImage(imageSlice(plane), left, top, width, height, 0, 0, shown.width, shown.height);
    if (byId("show-doubt").checked) {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(doubtSlice(plane), left, top, width, height, 0, 0, shown.width, shown.height);
    }
    if (about.ignored && byId("show-reference").checked) {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(ignoredSlice(plane), left, top, width, height, 0, 0, shown.width, shown.height);
    }
    const stroke = (labels, colour, thickness) => {
      const placed = new Path2D();
      placed.addPath(outline(plane, labels), new DOMMatrix([sx, 0, 0, sy, -left * sx, -top * sy]));
      pen.lineWidth = thickness * density;
      pen.lineJoin = pen.lineCap = "round";
      pen.strokeStyle = colour;
      pen.stroke(placed);
    };
    if (byId("show-reference").checked) stroke(reference, about.colours.reference, 3.6);
    if (byId("show-prediction").checked) stroke(mask, about.colours.prediction, 1.6);
    const [x, y] = [(at[right] + 0.5 - left) * sx, (about.shape[up] - at[up] - 0.5 - top) * sy];
    pen.lineWidth = density;
    pen.strokeStyle = "rgba(255, 255, 255, 0.6)";
    pen.beginPath();
    // The cross leaves its middle free, so that it hides nothing of what it points at.
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + 9 * density * dx, y + 9 * density * dy);
      pen.lineTo(x + room * dx, y + room * dy);
    }
    pen.stroke();
  }

  // The subject's left on the right: canvases are mirrored as a whole, since nothing is written on them.
  const mirrored = (plane) => plane !== "sagittal" && byId("radiological").checked;

  function turn() {
    for (const plane of Object.keys(planes)) {
      const screen = byId(plane).parentElement;
      byId(plane).classList.toggle("mirrored", mirrored(plane));
      if (plane === "sagittal") continue;
      screen.querySelector(".side.left").textContent = mirrored(plane) ? "R" : "L";
      screen.querySelector(".side.right").textContent = mirrored(plane) ? "L" : "R";
    }
    byId("convention").textContent = byId("radiological").checked
      ? "Radiological display: the left of a coronal or axial slice is the subject's right (R)"
      : "Neurological display: the left of a coronal or axial slice is the subject's left (L)";
  }

  function describe() {
    const world = [0, 1, 2].map((r) => about.affine[r][3] + [0, 1, 2].reduce((s, c) => s + about.affine[r][c] * at[c], 0));
    const name = (value) => (value ? about.classes[value - 1] : "none");
    const index = offset(at);
    byId("place").textContent = world.map((v) => v.toFixed(1)).join(", ");
    byId("is-reference").textContent = name(reference[index]);
    byId("is-prediction").textContent = name(mask[index]);
    byId("is-doubt").textContent = `${Math.round((100 * doubt[index]) / about.levels)} %`;
    byId("of-arm").textContent = about.arms[arm].note;
  }

  function render() {
    for (const plane of Object.keys(planes)) {
      byId(`${plane}-slice`).value = at[planes[plane][0]];
      byId(`${plane}-number`).textContent = `${at[planes[plane][0]] + 1} / ${about.shape[planes[plane][0]]}`;
      draw(plane);
    }
    describe();
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      render();
    });
  }

  function point(plane, event) {
    const box = byId(plane).getBoundingClientRect();
    const [, right, up] = planes[plane];
    const [left, top, width, height] = view(plane);
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, Math.floor(value)));
    const across = (event.clientX - box.left) / box.width;
    at[right] = clamp(left + (mirrored(plane) ? 1 - across : across) * width, about.shape[right]);
    at[up] = clamp(about.shape[up] - (top + ((event.clientY - box.top) / box.height) * height), about.shape[up]);
    later();
  }

  try {
    if (document.readyState !== "complete") await new Promise((go) => addEventListener("load", go, { once: true }));
    if (!sheet.naturalWidth) throw new Error("the picture of the slices cannot be read");
    reference = await inflate(about.reference);
    await choose(0);
  } catch (error) {
    byId("trouble").hidden = false;
    throw error;
  }
  for (const plane of Object.keys(planes)) {
    const slider = byId(`${plane}-slice`);
    slider.addEventListener("input", () => {
      at[planes[plane][0]] = Number(slider.value);
      later();
    });
    const shown = byId(plane);
    shown.addEventListener("pointerdown", (event) => point(plane, event));
    shown.addEventListener("pointermove", (event) => event.buttons && point(plane, event));
  }
  for (const id of ["show-reference", "show-prediction", "show-doubt", "close-up"]) byId(id).addEventListener("change", later);
  byId("arm").addEventListener("change", async (event) => {
    await choose(Number(event.target.value));
    later();
  });
  byId("radiological").addEventListener("change", turn);
  addEventListener("resize", later);
  turn();
  render();
  document.documentElement.dataset.viewer = "ready";
})();
