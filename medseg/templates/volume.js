"use strict";
// Surfaces of the volumes. One WebGL context draws them all, because a page may hold only a few; each picture is copied
// into a plain canvas.
(() => {
  const VERTEX = `attribute vec3 place; attribute vec3 normal; uniform mat3 turn; uniform float zoom; varying vec3 n;
    void main() { vec3 p = turn * place; n = turn * normal; gl_Position = vec4(p.xy * zoom, -p.z * 0.5, 1.0); }`;
  // lit from the eye, and from both sides, so that the sense of triangles does not matter; rims of what is
  // transparent are denser
  const FRAGMENT = `precision mediump float; uniform vec4 colour; uniform float lit; varying vec3 n;
    void main() { float l = length(n) > 0.0 ? abs(normalize(n).z) : 1.0; float a = mix(min(1.0, colour.a * 2.5), colour.a, l);
      vec3 c = mix(colour.rgb, colour.rgb * (0.3 + 0.7 * l), lit); gl_FragColor = vec4(c * a, a); }`;
  const glass = document.createElement("canvas");
  const gl = glass.getContext("webgl", { alpha: true, antialias: true });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  // rows: what goes to the right, up and towards the eye; of a patient x runs right, y to the front, z up
  const LOOKS = {
    1: [[-1, 0, 0, 0, 0, 1, 0, 1, 0], [0, -1, 0, 0, 0, 1, -1, 0, 0], [-1, 0, 0, 0, 1, 0, 0, 0, -1]],
    0: [[1, 0, 0, 0, -1, 0, 0, 0, -1]],
  };
  const times = (a, b) => Array.from(a, (_, i) => [0, 1, 2].reduce((s, k) => s + a[3 * Math.floor(i / 3) + k] * b[3 * k + (i % 3)], 0));
  const about = (axis, angle) => {
    const c = Math.cos(angle), s = Math.sin(angle);
    return axis ? [c, 0, s, 0, 1, 0, -s, 0, c] : [1, 0, 0, 0, c, -s, 0, s, c];
  };

  let program;
  const setUp = () => {
    program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "place");
    gl.bindAttribLocation(program, 1, "normal");
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.enable(gl.BLEND);
  };
  const uniform = (name) => gl.getUniformLocation(program, name);
  const buffer = (kind, data) => {
    const made = gl.createBuffer();
    gl.bindBuffer(kind, made);
    gl.bufferData(kind, data, gl.STATIC_DRAW);
    return made;
  };

  // a corner's normal is the sum of those of its triangles, each as long as the triangle is large
  const normals = (points, triangles) => {
    const sum = new Float32Array(points.length);
    for (let t = 0; t < triangles.length; t += 3) {
      const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
      const u = [0, 1, 2].map((k) => points[b + k] - points[a + k]), v = [0, 1, 2].map((k) => points[c + k] - points[a + k]);
      for (let k = 0; k < 3; k++) {
        const n = u[(k + 1) % 3] * v[(k + 2) % 3] - u[(k + 2) % 3] * v[(k + 1) % 3];
        sum[a + k] += n; sum[b + k] += n; sum[c + k] += n;
      }
    }
    for (let i = 0; i < sum.length; i += 3) {
      const length = Math.hypot(sum[i], sum[i + 1], sum[i + 2]) || 1;
      sum[i] /= length; sum[i + 1] /= length; sum[i + 2] /= length;
    }
    return sum;
  };
  const load = (span) => {
    const points = new Int16Array(bytes(span.dataset.points)), triangles = new Uint16Array(bytes(span.dataset.triangles));
    return {
      layer: span.dataset.layer, colour: rgb(span.dataset.colour), count: triangles.length,
      places: buffer(gl.ARRAY_BUFFER, points), normals: buffer(gl.ARRAY_BUFFER, normals(points, triangles)),
      triangles: buffer(gl.ELEMENT_ARRAY_BUFFER, triangles),
    };
  };

  const start = (canvas) => {
    const article = canvas.closest("article"), looks = LOOKS[canvas.dataset.patient], square = canvas.parentElement;
    const meshes = [...square.querySelectorAll(".mesh")].map(load);
    const cross = canvas.dataset.cross.split(" ").map(Number);
    const lines = new Float32Array([0, 1, 2].flatMap((axis) => [-0.12, 0.12].flatMap((d) => cross.map((c, k) => (k === axis ? c + d : c)))));
    const crossing = buffer(gl.ARRAY_BUFFER, lines);
    const reference = meshes.some((m) => m.layer[0] === "r");
    const sides = canvas.dataset.patient === "1" ? ["L", "R", "P", "A", "I", "S"].map((letter) => {
      const span = document.createElement("span");
      span.className = "side turning";
      span.textContent = letter;
      return square.appendChild(span);
    }) : [];
    let turn, zoom, asked = 0;
    const look = (which) => { turn = looks[which]; zoom = 0.68; };
    const draw = () => {
      asked = 0;
      const width = Math.round(canvas.clientWidth * Math.min(2, devicePixelRatio));
      if (!width) return;
      canvas.width = canvas.height = glass.width = glass.height = width;
      gl.viewport(0, 0, width, width);
      gl.clearColor(0.055, 0.063, 0.075, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(uniform("turn"), false, [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => turn[i]));
      gl.uniform1f(uniform("zoom"), zoom);
      gl.enableVertexAttribArray(0);
      // first what is predicted; over it the reference, like glass; then the reference inside of it, fainter
      for (const [who, alpha, test] of [["p", 1, gl.LESS], ["r", 0.22, gl.LESS], ["r", 0.1, gl.GREATER]]) {
        gl.depthMask(who === "p");
        gl.depthFunc(test);
        for (const mesh of meshes) {
          if (mesh.layer[0] !== who || !article.shows(mesh.layer)) continue;
          gl.enableVertexAttribArray(1);
          gl.bindBuffer(gl.ARRAY_BUFFER, mesh.places);
          gl.vertexAttribPointer(0, 3, gl.SHORT, true, 0, 0);
          gl.bindBuffer(gl.ARRAY_BUFFER, mesh.normals);
          gl.vertexAttribPointer(1, 3, gl.FLOAT, false, 0, 0);
          gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.triangles);
          gl.uniform4f(uniform("colour"), ...mesh.colour, alpha);
          gl.uniform1f(uniform("lit"), 1);
          gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_SHORT, 0);
        }
      }
      gl.depthMask(true);
      gl.depthFunc(gl.LESS);
      gl.clear(gl.DEPTH_BUFFER_BIT);
      gl.disableVertexAttribArray(1);
      gl.vertexAttrib3f(1, 0, 0, 0);
      gl.bindBuffer(gl.ARRAY_BUFFER, crossing);
      gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
      gl.uniform4f(uniform("colour"), 1, 1, 1, reference ? 0.9 : 0.5);
      gl.uniform1f(uniform("lit"), 0);
      gl.drawArrays(gl.LINES, 0, 6);
      canvas.getContext("2d").drawImage(glass, 0, 0);
      sides.forEach((span, i) => {
        const axis = i >> 1, sign = i % 2 ? 1 : -1;
        const [x, y, z] = [0, 3, 6].map((row) => sign * turn[row + axis]);
        span.style.left = `${50 + 44 * x}%`;
        span.style.top = `${50 - 44 * y}%`;
        span.style.opacity = Math.abs(z) > 0.75 ? 0 : z < 0 ? 0.5 : 1;
      });
    };
    const redraw = () => { asked = asked || requestAnimationFrame(draw); };
    const turnBy = (x, y) => { turn = times(times(about(0, y), about(1, x)), turn); redraw(); };
    const zoomBy = (factor) => { zoom = Math.min(8, Math.max(0.2, zoom * factor)); redraw(); };
    const fingers = new Map();
    const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
    canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.clientX, e.clientY]); });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
    canvas.addEventListener("pointermove", (e) => {
      const last = fingers.get(e.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? apart() : 0, pace = Math.PI / canvas.clientWidth / fingers.size;
      turnBy((e.clientX - last[0]) * pace, (e.clientY - last[1]) * pace);
      fingers.set(e.pointerId, [e.clientX, e.clientY]);
      if (before) zoomBy(apart() / before);
    });
    // the wheel scrolls the page until a view is chosen by a click
    canvas.addEventListener("wheel", (e) => {
      if (document.activeElement !== canvas) return;
      e.preventDefault();
      zoomBy(Math.exp(-e.deltaY / (e.deltaMode ? 20 : 500)));
    }, { passive: false });
    const keys = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
    canvas.addEventListener("keydown", (e) => {
      if (keys[e.key]) turnBy(...keys[e.key]);
      else if (e.key === "+" || e.key === "-") zoomBy(e.key === "+" ? 1.2 : 1 / 1.2);
      else return;
      e.preventDefault();
    });
    for (const button of article.querySelectorAll("[data-look]")) button.addEventListener("click", () => { look(button.dataset.look); redraw(); });
    article.addEventListener("change", redraw);
    look(0);
    if (sides.length) turn = times(times(about(0, 0.3), about(1, 0.45)), turn);
    draw();
    new ResizeObserver(redraw).observe(canvas);
  };

  for (const article of document.querySelectorAll("article.volume")) {
    const off = (name, value) => article.querySelector(`input[data-${name}="${value}"]:not(:checked)`) !== null;
    article.shows = (layer) => !off("who", layer[0]) && !off("value", layer.slice(1));
    const apply = () => {
      for (const path of article.querySelectorAll("path[data-layer]")) path.style.display = article.shows(path.dataset.layer) ? "" : "none";
    };
    article.addEventListener("change", apply);
    apply();
  }
  if (gl) setUp();
  for (const canvas of document.querySelectorAll("canvas.solid")) {
    if (gl) start(canvas);
    else { canvas.hidden = true; canvas.parentElement.querySelector(".lost").hidden = false; }
  }
})();
