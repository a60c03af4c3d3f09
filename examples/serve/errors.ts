/**
 * Refusals as OpenAI's clients know them.
 */

/** What is wrong with a request: an HTTP status, and what the body says about it. */
export class RequestError extends Error {
  override name = "RequestError";
  /** The field that is wrong, if it is one. */
  readonly param: string | null;
  /** A name for programs, if there is one. */
  readonly code: string | null;

  constructor(
    readonly status: number,
    message: string,
    { param = null, code = null }: { param?: string | null; code?: string | null } = {},
  ) {
    super(message);
    this.param = param;
    this.code = code;
  }

  /** What OpenAI calls this kind of error. */
  get type(): string {
    if (this.status === 429) return "rate_limit_error";
    return this.status < 500 ? "invalid_request_error" : "server_error";
  }

  /** The body of the reply. */
  body(): object {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}
