// The same as pointwise.wgsl where all operands are dense: one thread four neighbours, which it loads at once.
// Goes on in pointwise_rules.wgsl.

struct Params {
  // In fours, like the size.
  offsets: vec4u,
  size: u32,
  scalar: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<StoredX>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<StoredY>>;
@group(0) @binding(2) var<storage, read> z: array<vec4<StoredZ>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<StoredOut>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  let at = params.offsets + i;
  var a: vec4<X>;
  var b: vec4<Y>;
  if (SCALAR == 1u) { a = vec4<X>(X(bitcast<Scalar>(params.scalar))); } else { a = vec4<X>(x[at.x]); }
  if (SCALAR == 2u) { b = vec4<Y>(Y(bitcast<Scalar>(params.scalar))); } else { b = vec4<Y>(y[at.y]); }
  let c = vec4<Z>(z[at.z]);
  let results = vec4<Out>(rule(a.x, b.x, c.x), rule(a.y, b.y, c.y), rule(a.z, b.z, c.z), rule(a.w, b.w, c.w));
  out[at.w] = vec4<StoredOut>(results);
}
