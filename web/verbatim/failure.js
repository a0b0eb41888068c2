/** What goes wrong, as an error to be caught. */

/** A refusal, with the fields of the protocol's `error` frame, or one of this client's own. */
export class ChatError extends Error {
  constructor({ error, code, status, field, limit, retry_after_ms, room }) {
    super(error);
    this.name = 'ChatError';
    Object.assign(this, { code, status, field, limit, retry_after_ms, room });
  }
}

/** Answers that say: the same again, a little later. */
export const RETRY_CODES = new Set(['unavailable', 'rate_limited']);

export function failure(code, error) {
  return new ChatError({ code, error });
}

export function closed() {
  return failure('closed', 'the connection was closed');
}
