// SPDX-License-Identifier: Apache-2.0
// What runs on the GPU: points, their shading by depth, and lines.
'use strict';

const COLOURINGS = [
  'label', 'truth', 'errors', 'probability', 'instance', 'intensity', 'height',
];

const POINT_VERTEX = `#version 300 es
layout(location = 0) in vec4 place;   // x, y, z in steps, number of the object
layout(location = 1) in vec4 values;  // label, truth, probability, intensity
uniform mat4 world_to_clip;
uniform vec3 low, step_m;
uniform vec2 heights;                 // of both ends of the ramp
uniform float size, smallest, largest; // pixels at one metre; pixels
uniform int colouring;
uniform sampler2D colours;            // 256 x 4: classes, ramp, instances, errors
flat out vec3 colour;
flat out float diameter;

vec4 look_up(int row, float column) {
  return texelFetch(colours, ivec2(int(column + 0.5), row), 0);
}

vec3 choose(vec3 position, vec4 class_colour) {
  if (colouring <= 1) return class_colour.rgb;
  if (colouring == 2) {
    if (values.y > 254.5) return look_up(3, 2.0).rgb;
    return look_up(3, values.x == values.y ? 0.0 : 1.0).rgb;
  }
  if (colouring == 3) return look_up(1, values.z).rgb;
  if (colouring == 4) return look_up(2, place.w < 0.5 ? 0.0 : 1.0 + mod(place.w, 255.0)).rgb;
  if (colouring == 5) return look_up(1, values.w).rgb;
  float share = (position.z - heights.x) / (heights.y - heights.x);
  return look_up(1, 255.0 * clamp(share, 0.0, 1.0)).rgb;
}

void main() {
  vec4 class_colour = look_up(0, colouring == 1 || colouring == 2 ? values.y : values.x);
  vec3 position = low + step_m * place.xyz;
  gl_Position = world_to_clip * vec4(position, 1.0);
  if (class_colour.a < 0.5) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);  // outside: not drawn
  bool wrong = colouring == 2 && values.y < 254.5 && values.x != values.y;
  diameter = clamp(size / gl_Position.w, smallest, largest) * (wrong ? 1.5 : 1.0);
  gl_PointSize = diameter;
  colour = choose(position, class_colour);
}`;

const POINT_FRAGMENT = `#version 300 es
precision mediump float;
flat in vec3 colour;
flat in float diameter;
out vec4 result;

void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (diameter > 2.5 && dot(off, off) > 0.25) discard;
  result = vec4(colour, 1.0);
}`;

const SCREEN_VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`;

// Eye-dome lighting (Boucheny 2009): a pixel is darker, the more its neighbours lie before it.
const SHADE_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D drawn, depths;
uniform vec2 planes;                  // near and far, metres
uniform float reach, strength;        // pixels
out vec4 result;

float distance_at(ivec2 pixel) {
  float depth = texelFetch(depths, clamp(pixel, ivec2(0), textureSize(depths, 0) - 1), 0).r;
  return log2(planes.x * planes.y / (planes.y - depth * (planes.y - planes.x)));
}

void main() {
  ivec2 here = ivec2(gl_FragCoord.xy);
  vec4 seen = texelFetch(drawn, here, 0);
  if (seen.a == 0.0) { result = vec4(0.0); return; }
  float own = distance_at(here), before = 0.0;
  for (int i = 0; i < 8; i++) {
    float angle = float(i) * 0.785398;
    ivec2 there = here + ivec2(round(reach * vec2(cos(angle), sin(angle))));
    before += clamp(own - distance_at(there), 0.0, 0.08);
  }
  result = vec4(seen.rgb * exp(-strength * before), 1.0);
}`;

const COPY_FRAGMENT = `#version 300 es
precision mediump float;
uniform sampler2D drawn;
uniform vec2 window;
out vec4 result;
void main() { result = texture(drawn, gl_FragCoord.xy / window); }`;

// A line is a quad as wide on the screen as wanted; ends behind the camera are cut off.
const LINE_VERTEX = `#version 300 es
layout(location = 0) in vec3 from;
layout(location = 1) in vec3 to;
layout(location = 2) in vec4 line_colour;
layout(location = 3) in float width;  // pixels
uniform mat4 world_to_clip;
uniform vec2 window;
uniform float near;
out vec4 colour;
out float across, half_width;

void main() {
  vec4 a = world_to_clip * vec4(from, 1.0), b = world_to_clip * vec4(to, 1.0);
  if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < near) a = mix(b, a, (b.w - near) / (b.w - a.w));
  if (b.w < near) b = mix(a, b, (a.w - near) / (a.w - b.w));
  vec2 way = (b.xy / b.w - a.xy / a.w) * window;
  vec2 side = length(way) > 1e-6 ? normalize(vec2(-way.y, way.x)) : vec2(1.0, 0.0);
  half_width = 0.5 * width + 1.0;
  across = (gl_VertexID & 1) == 0 ? half_width : -half_width;
  vec4 end = gl_VertexID < 2 ? a : b;
  gl_Position = end + vec4(side * across * 2.0 / window * end.w, 0.0, 0.0);
  colour = line_colour;
}`;

const LINE_FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour;
in float across, half_width;
uniform sampler2D depths;
uniform vec2 window;
uniform float hidden_alpha;
out vec4 result;

void main() {
  float alpha = colour.a * clamp(half_width - abs(across), 0.0, 1.0);
  float depth = texture(depths, gl_FragCoord.xy / window).r;
  if (depth < gl_FragCoord.z - 1e-6) alpha *= hidden_alpha;
  result = vec4(colour.rgb * alpha, alpha);
}`;

function compile(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`shader: ${[gl.getProgramInfoLog(program), ...logs].join(' ')}`);
  }
  const uniforms = {};
  const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
  for (let i = 0; i < count; i++) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}
