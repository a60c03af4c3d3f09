/**
 * From a shader file to the shader one dispatch needs, and what the device must grant it.
 *
 * Files in `shaders/` are WGSL, complete but for those that say which file they go on from; their constants
 * and aliases have values to read them by. The specialiser gives those declarations new values; nothing
 * else of the text changes.
 *
 * @module
 */
import { LevinError } from "../../errors.ts";

/** New values by name: see `Dispatch.constants`. */
export type Constants = Readonly<Record<string, number | boolean | string>>;

/**
 * Gives declarations of `shader` new values: `const NAME = …;`, `alias NAME = …;`, or the expression
 * that the one-line `fn NAME(…) -> T { return …; }` returns.
 */
export function specialise(shader: string, constants: Constants): string {
  let text = shader;
  let half = false;
  for (const [name, value] of Object.entries(constants)) {
    const declaration = new RegExp(
      String.raw`(\b(?:const|alias)\s+${name}\b[^=;]*=\s*)[^;]*(;)` +
        String.raw`|(\bfn\s+${name}\s*\([^)]*\)\s*->\s*\w+\s*\{\s*return\s+)[^;]*(;)`,
    );
    if (!declaration.test(text)) {
      throw new LevinError(`Cannot specialise a shader: it declares no const, alias or fn ${name}`);
    }
    text = text.replace(declaration, (_, a, b, c, d) => `${a ?? c}${value}${b ?? d}`);
    half ||= String(value).includes("f16");
  }
  return half ? `enable f16;\n${text}` : text;
}

/** What standard WGSL says of a shader that uses subgroups. */
export const SUBGROUPS_DIRECTIVE = "enable subgroups;";

/** What a compute shader declares. */
export interface Reflection {
  /** The kinds of `@group(0)` bindings, in order. */
  readonly bindings: GPUBufferBindingType[];
  /** Threads of a workgroup along x, y and z. */
  readonly workgroupSize: [number, number, number];
  /** Bytes of `var<workgroup>`. */
  readonly workgroupBytes: number;
  /** The extensions that `enable` directives name. */
  readonly enables: readonly string[];
  /** How the block `params` lies in memory. Throws LevinError where it cannot tell. */
  readonly paramsLayout: () => Layout;
}

/** How a value lies in memory, in bytes. */
export interface Layout {
  /** From its start to its end. */
  readonly size: number;
  /** What its address is a multiple of. */
  readonly align: number;
}

/** Reads what a specialised shader declares. Throws LevinError where it cannot tell. */
export function reflect(shader: string): Reflection {
  const text = shader.replace(/\/\/.*/g, "");
  const declared = new Map<string, string>();
  for (const [, name, value] of text.matchAll(/\b(?:const|alias)\s+(\w+)\b[^=;]*=\s*([^;]*);/g)) {
    declared.set(name, value.trim());
  }
  for (const [, name, members] of text.matchAll(/\bstruct\s+(\w+)\s*\{([^}]*)\}/g)) {
    declared.set(name, `struct{${members}}`);
  }
  const bindings: GPUBufferBindingType[] = [];
  const binding = /@group\(0\)\s*@binding\((\d+)\)\s*var\s*<([^>]*)>/g;
  for (const [, index, kind] of text.matchAll(binding)) {
    bindings[Number(index)] = kind.includes("uniform")
      ? "uniform"
      : kind.includes("read_write")
      ? "storage"
      : "read-only-storage";
  }
  const size = text.match(/@workgroup_size\(([^{]*?)\)\s*(?:@\w+\s*)*fn/)?.[1];
  if (size === undefined) throw new LevinError("A compute shader must declare @workgroup_size");
  const sizes = size.split(",").filter((s) => s.trim() !== "").map((s) => evaluate(s, declared));
  let workgroupBytes = 0;
  for (const [, type] of text.matchAll(/var\s*<\s*workgroup\s*>\s*\w+\s*:\s*([^;]*);/g)) {
    workgroupBytes += roundUp(layoutOf(type, declared).size, 16);
  }
  const enables = [...text.matchAll(/^\s*enable\s+([^;]*);/gm)].flatMap(([, names]) =>
    names.split(",").map((name) => name.trim())
  );
  const paramsLayout = () => {
    const type = text.match(/\bvar\s*<[^>]*>\s*params\s*:\s*([^;]*);/)?.[1];
    if (type === undefined) throw new LevinError("A shader that is given params must declare them");
    return layoutOf(type, declared);
  };
  return {
    bindings,
    workgroupSize: [sizes[0], sizes[1] ?? 1, sizes[2] ?? 1],
    workgroupBytes,
    enables,
    paramsLayout,
  };
}

const SCALARS: Record<string, number> = { f32: 4, i32: 4, u32: 4, bool: 4, f16: 2 };
const SUFFIXES: Record<string, number> = { f: 4, i: 4, u: 4, h: 2 };

/** How a value of a WGSL type lies in memory: https://www.w3.org/TR/WGSL/#alignment-and-size. */
function layoutOf(type: string, declared: ReadonlyMap<string, string>): Layout {
  const t = type.replace(/\s+/g, "");
  if (t in SCALARS) return { size: SCALARS[t], align: SCALARS[t] };
  const alias = declared.get(t);
  if (alias !== undefined) return layoutOf(alias, declared);
  const atomic = t.match(/^atomic<(.*)>$/);
  if (atomic) return layoutOf(atomic[1], declared);
  const vector = t.match(/^vec([234])(?:([fiuh])|<(\w+)>)$/);
  if (vector) {
    const [, width, suffix, element] = vector;
    const scalar = SUFFIXES[suffix] ?? layoutOf(element, declared).size;
    return { size: Number(width) * scalar, align: (width === "2" ? 2 : 4) * scalar };
  }
  const matrix = t.match(/^mat([234])x([234])(?:([fh])|<(\w+)>)$/);
  if (matrix) {
    const [, columns, rows, suffix, element] = matrix;
    const { size, align } = layoutOf(`vec${rows}${suffix ?? `<${element}>`}`, declared);
    return { size: Number(columns) * roundUp(size, align), align };
  }
  const array = t.match(/^array<(.*),([^,]*)>$/);
  if (array) {
    const { size, align } = layoutOf(array[1], declared);
    return { size: roundUp(size, align) * evaluate(array[2], declared), align };
  }
  const struct = t.match(/^struct\{(.*)\}$/);
  if (struct) return layoutOfStruct(struct[1], declared);
  throw new LevinError(
    `Cannot tell the size of the WGSL type ${type}: use scalars, vectors, matrices, arrays and ` +
      `structs of them`,
  );
}

/** The same of members in a row, `a:u32,b:vec4<f32>,`, each at the next multiple of its alignment. */
function layoutOfStruct(members: string, declared: ReadonlyMap<string, string>): Layout {
  let end = 0;
  let strictest = 1;
  // Commas between members are those that no `>` follows before a `<`.
  for (const member of members.split(/,(?![^<]*>)/).filter((text) => text !== "")) {
    const type = member.slice(member.indexOf(":") + 1);
    const { size, align } = layoutOf(type, declared);
    end = roundUp(end, align) + size;
    strictest = Math.max(strictest, align);
  }
  return { size: roundUp(end, strictest), align: strictest };
}

function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** The value of a constant integer expression: + - * / % and parentheses over declared constants. */
function evaluate(expression: string, declared: ReadonlyMap<string, string>): number {
  const tokens = expression.match(/[A-Za-z_]\w*|\d+(?:\.\d+)?[uif]?|[-+*/%()]/g) ?? [];
  let at = 0;
  const factor = (): number => {
    const token = tokens[at++];
    if (token === "(") {
      const value = sum();
      at++;
      return value;
    }
    if (token !== undefined && /^\d/.test(token)) return parseFloat(token);
    const value = token === undefined ? undefined : declared.get(token);
    if (value === undefined) {
      throw new LevinError(`Cannot evaluate "${expression.trim()}" in a shader: use constants`);
    }
    return evaluate(value, declared);
  };
  const product = (): number => {
    let value = factor();
    while (["*", "/", "%"].includes(tokens[at])) {
      const operator = tokens[at++];
      const right = factor();
      value = operator === "*"
        ? value * right
        : operator === "/"
        ? Math.trunc(value / right)
        : value % right;
    }
    return value;
  };
  const sum = (): number => {
    let value = product();
    while (["+", "-"].includes(tokens[at])) value += tokens[at++] === "+" ? product() : -product();
    return value;
  };
  return sum();
}
