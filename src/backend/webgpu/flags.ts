/**
 * The bits of WebGPU's flags, as the standard fixes them (https://www.w3.org/TR/webgpu). Its global
 * objects are absent where the GPU object was brought along, as npm `webgpu`'s is in Bun and Node.
 *
 * @module
 */

/** `GPUBufferUsage`, as far as Levin uses it. */
export const BufferUsage = {
  MAP_READ: 0x1,
  COPY_SRC: 0x4,
  COPY_DST: 0x8,
  UNIFORM: 0x40,
  STORAGE: 0x80,
  QUERY_RESOLVE: 0x200,
} as const;

/** `GPUMapMode.READ`. */
export const MAP_MODE_READ = 0x1;

/** `GPUShaderStage.COMPUTE`. */
export const SHADER_STAGE_COMPUTE = 0x4;
