// SPDX-License-Identifier: Apache-2.0
// Draws: points into a texture with their depth, shaded by depth into another, lines on top.
'use strict';

const HIDDEN_ALPHA = 0.22; // of a line behind points

class Scene {
  constructor(canvas) {
    const gl = canvas.getContext('webgl2', { antialias: false, preserveDrawingBuffer: false });
    if (!gl) throw new Error('this browser has no WebGL 2');
    this.canvas = canvas;
    this.gl = gl;
    this.points = compile(gl, POINT_VERTEX, POINT_FRAGMENT);
    this.shade = compile(gl, SCREEN_VERTEX, SHADE_FRAGMENT);
    this.copy = compile(gl, SCREEN_VERTEX, COPY_FRAGMENT);
    this.lines = compile(gl, LINE_VERTEX, LINE_FRAGMENT);
    this.empty = gl.createVertexArray();
    this.makePointArrays();
    this.makeLineArrays();
    this.colours = this.makeTexture(gl.NEAREST);
    this.targets = null;
    this.scan = null;
    this.finer = 1; // pixels drawn per pixel shown, along one side
  }

  makePointArrays() {
    const { gl } = this;
    this.pointArray = gl.createVertexArray();
    this.placeBuffer = gl.createBuffer();
    this.valueBuffer = gl.createBuffer();
    gl.bindVertexArray(this.pointArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.placeBuffer);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 4, gl.UNSIGNED_SHORT, false, 8, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.valueBuffer);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, false, 4, 0);
  }

  makeLineArrays() {
    const { gl } = this;
    this.lineArray = gl.createVertexArray();
    this.lineBuffer = gl.createBuffer();
    this.lineCount = 0;
    gl.bindVertexArray(this.lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lineBuffer);
    const parts = [[3, gl.FLOAT, false, 0], [3, gl.FLOAT, false, 12],
      [4, gl.UNSIGNED_BYTE, true, 24], [1, gl.FLOAT, false, 28]];
    parts.forEach(([size, kind, scaled, offset], i) => {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, kind, scaled, 4 * LINE_FLOATS, offset);
      gl.vertexAttribDivisor(i, 1);
    });
  }

  makeTexture(filter) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }

  setScan(scan) {
    const { gl } = this;
    this.scan = scan;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.placeBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, scan.places, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.valueBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, scan.values, gl.STATIC_DRAW);
  }

  setColours(texels) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.colours);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 4, 0, gl.RGBA, gl.UNSIGNED_BYTE, texels);
  }

  setLines({ data, count }) {
    const { gl } = this;
    this.lineCount = count;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lineBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  }

  resize(width, height, density) {
    const size = [width * density, height * density].map((v) => Math.max(1, Math.round(v)));
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) {
      [this.canvas.width, this.canvas.height] = size;
    }
    this.density = density;
  }

  // Textures to draw into, of the canvas's size times `finer`.
  prepareTargets() {
    const width = this.canvas.width * this.finer;
    const height = this.canvas.height * this.finer;
    if (this.targets && this.targets.width === width && this.targets.height === height) return;
    this.dropTargets();
    const { gl } = this;
    const make = (filter, inner, format, kind) => {
      const texture = this.makeTexture(filter);
      gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, format, kind, null);
      return texture;
    };
    const drawn = make(gl.NEAREST, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE);
    const depths = make(gl.NEAREST, gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT);
    const shaded = make(gl.LINEAR, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE);
    const first = this.makeFrame(drawn, depths);
    const second = this.makeFrame(shaded, null);
    this.targets = { width, height, drawn, depths, shaded, first, second };
  }

  dropTargets() {
    if (!this.targets) return;
    const { gl } = this;
    const { drawn, depths, shaded, first, second } = this.targets;
    [drawn, depths, shaded].forEach((texture) => gl.deleteTexture(texture));
    [first, second].forEach((frame) => gl.deleteFramebuffer(frame));
  }

  makeFrame(colour, depth) {
    const { gl } = this;
    const frame = gl.createFramebuffer();
    const kind = gl.FRAMEBUFFER;
    gl.bindFramebuffer(kind, frame);
    gl.framebufferTexture2D(kind, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, colour, 0);
    if (depth) gl.framebufferTexture2D(kind, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, depth, 0);
    return frame;
  }

  // `look`: colouring, heights, pointSize (metres), shading.
  draw(matrix, look) {
    this.prepareTargets();
    this.drawPoints(matrix, look);
    this.drawShade(look);
    this.drawCopy();
    this.drawLines(matrix);
  }

  drawPoints(matrix, look) {
    const { gl, scan, targets } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, targets.first);
    gl.viewport(0, 0, targets.width, targets.height);
    gl.disable(gl.BLEND);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!scan) return;
    const { program, uniforms } = this.points;
    const scale = this.density * this.finer;
    gl.useProgram(program);
    this.bind(this.colours, 0);
    gl.uniform1i(uniforms.colours, 0);
    gl.uniformMatrix4fv(uniforms.world_to_clip, false, matrix);
    gl.uniform3fv(uniforms.low, scan.low);
    gl.uniform3fv(uniforms.step_m, scan.step);
    gl.uniform2fv(uniforms.heights, look.heights);
    gl.uniform1i(uniforms.colouring, COLOURINGS.indexOf(look.colouring));
    const metre = targets.height / (2 * Math.tan(FIELD_OF_VIEW / 2));
    gl.uniform1f(uniforms.size, look.pointSize * metre);
    gl.uniform1f(uniforms.smallest, (1.2 + 10 * look.pointSize) * scale);
    gl.uniform1f(uniforms.largest, 14 * scale);
    gl.bindVertexArray(this.pointArray);
    gl.drawArrays(gl.POINTS, 0, scan.count);
  }

  drawShade(look) {
    const { gl, targets } = this;
    const { program, uniforms } = this.shade;
    gl.bindFramebuffer(gl.FRAMEBUFFER, targets.second);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(program);
    this.bind(targets.drawn, 0);
    this.bind(targets.depths, 1);
    gl.uniform1i(uniforms.drawn, 0);
    gl.uniform1i(uniforms.depths, 1);
    gl.uniform2f(uniforms.planes, NEAR_M, FAR_M);
    gl.uniform1f(uniforms.reach, 1.3 * this.density * this.finer);
    gl.uniform1f(uniforms.strength, look.shading ? 2.6 : 0);
    this.fillScreen();
  }

  drawCopy() {
    const { gl, targets, canvas } = this;
    const { program, uniforms } = this.copy;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(program);
    this.bind(targets.shaded, 0);
    gl.uniform1i(uniforms.drawn, 0);
    gl.uniform2f(uniforms.window, canvas.width, canvas.height);
    this.fillScreen();
  }

  drawLines(matrix) {
    const { gl, targets, canvas } = this;
    const { program, uniforms } = this.lines;
    if (!this.lineCount) return;
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(program);
    this.bind(targets.depths, 0);
    gl.uniform1i(uniforms.depths, 0);
    gl.uniformMatrix4fv(uniforms.world_to_clip, false, matrix);
    gl.uniform2f(uniforms.window, canvas.width, canvas.height);
    gl.uniform1f(uniforms.near, NEAR_M);
    gl.uniform1f(uniforms.hidden_alpha, HIDDEN_ALPHA);
    gl.bindVertexArray(this.lineArray);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.lineCount);
  }

  fillScreen() {
    this.gl.bindVertexArray(this.empty);
    this.gl.drawArrays(this.gl.TRIANGLES, 0, 3);
  }

  bind(texture, unit) {
    this.gl.activeTexture(this.gl.TEXTURE0 + unit);
    this.gl.bindTexture(this.gl.TEXTURE_2D, texture);
  }

  // The shown point nearest to a spot of the window (pixels), -1 where none is close.
  pick(matrix, spot, reach, isShown) {
    const { scan } = this;
    if (!scan) return -1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    let [best, least] = [-1, Infinity];
    for (let row = 0; row < scan.count; row++) {
      if (!isShown(row)) continue;
      const seen = project(matrix, scan.place(row));
      if (!seen) continue;
      const off = Math.hypot(
        ((seen[0] + 1) / 2) * width - spot[0], ((1 - seen[1]) / 2) * height - spot[1],
      );
      const cost = seen[2] * (1 + off / 3); // what lies before counts as nearer
      if (off < reach && cost < least) [best, least] = [row, cost];
    }
    return best;
  }
}
