/** Thrown in a page by what only Node's modules can do. */
export class AbsentError extends Error {
  override name = "AbsentError";
}
