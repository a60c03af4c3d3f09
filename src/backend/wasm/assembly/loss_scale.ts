// What loss scaling makes of a norm: see loss_scaler.ts for the formulas.

// Params: the addresses of the norm, of the factor, of the norm without scaling and of the state (the scale, the finite
// steps in a row and the steps skipped); the largest norm, growth, backoff, interval, the largest scale.
export function lossScale(params: usize, _task: i32, _scratch: usize): void {
  const found = load<f32>(load<usize>(params)), state = load<usize>(params, 12);
  const scale = load<f32>(state);
  store<f32>(load<usize>(params, 8), found / scale);
  if (!isFinite<f32>(found)) {
    store<f32>(load<usize>(params, 4), 0);
    store<f32>(state, max<f32>(scale * load<f32>(params, 24), 1));
    store<f32>(state, 0, 4);
    store<f32>(state, load<f32>(state, 8) + 1, 8);
    return;
  }
  const largest = <f64> load<f32>(params, 16) * scale;
  store<f32>(load<usize>(params, 4), <f32> (min<f64>(1, largest / found) / scale));
  const row = load<f32>(state, 4) + 1;
  const grows = row >= load<f32>(params, 28);
  if (grows) store<f32>(state, min<f32>(scale * load<f32>(params, 20), load<f32>(params, 32)));
  store<f32>(state, grows ? 0 : row, 4);
}
