/**
 * Every error Levin throws on purpose. One grammar: what was done, what was expected, what was
 * found, how to mend it.
 *
 * @module
 */

/** The ancestor of every error that Levin throws on purpose. */
export class LevinError extends Error {
  /** The class's own name, as it appears in a stack trace. */
  override name = "LevinError";
}

/** Shapes, axes or lengths that do not fit together, or a number outside of what it may be. */
export class ShapeError extends LevinError {
  /** The class\'s own name. */
  override name = "ShapeError";
}

/** A dtype that an operation does not accept, or dtypes that must not be mixed. */
export class DTypeError extends LevinError {
  /** The class\'s own name. */
  override name = "DTypeError";
}

/** A limit of the device or of the library; the message names the limit. */
export class LimitError extends LevinError {
  /** The class\'s own name. */
  override name = "LimitError";
}

/** No device, the wrong device, a lost device, or an error that the device reported. */
export class DeviceError extends LevinError {
  /** The class\'s own name. */
  override name = "DeviceError";
}

/** A file that is not what it should be; the message says where it goes wrong. */
export class FormatError extends LevinError {
  /** The class\'s own name. */
  override name = "FormatError";
}
