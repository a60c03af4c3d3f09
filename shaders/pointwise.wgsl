// out[i] = rule(x[i], y[i], z[i]) over strided operands of one common shape, one thread an element.
// Which rule, and on which types, says a row of a table in src/ops/pointwise.ts. Goes on in pointwise_rules.wgsl.

// Axes after merging those that every operand walks evenly.
const RANK: u32 = 1;

struct Params {
  shape: array<vec4u, 2>,
  strides_x: array<vec4u, 2>,
  strides_y: array<vec4u, 2>,
  strides_z: array<vec4u, 2>,
  strides_out: array<vec4u, 2>,
  offsets: vec4u,
  size: u32,
  scalar: u32,
}

@group(0) @binding(0) var<storage, read> x: array<StoredX>;
@group(0) @binding(1) var<storage, read> y: array<StoredY>;
@group(0) @binding(2) var<storage, read> z: array<StoredZ>;
@group(0) @binding(3) var<storage, read_write> out: array<StoredOut>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  var at = params.offsets;
  var rest = i;
  for (var axis = RANK; axis > 1u; axis--) {
    let k = (axis - 1u) / 4u;
    let c = (axis - 1u) % 4u;
    let length = params.shape[k][c];
    let entry = rest % length;
    rest = rest / length;
    at += entry * vec4u(params.strides_x[k][c], params.strides_y[k][c], params.strides_z[k][c], params.strides_out[k][c]);
  }
  at += rest * vec4u(params.strides_x[0][0], params.strides_y[0][0], params.strides_z[0][0], params.strides_out[0][0]);

  if (SCALAR == 1u) {
    out[at.w] = StoredOut(rule(X(bitcast<Scalar>(params.scalar)), Y(y[at.y]), Z(z[at.z])));
  } else if (SCALAR == 2u) {
    out[at.w] = StoredOut(rule(X(x[at.x]), Y(bitcast<Scalar>(params.scalar)), Z(z[at.z])));
  } else {
    out[at.w] = StoredOut(rule(X(x[at.x]), Y(y[at.y]), Z(z[at.z])));
  }
}
