/**
 * Questions to the server, each with the promise of its answer.
 *
 * One that is open when the connection breaks is asked again on the next, until it is answered or
 * its time is over.
 */

import { ChatError, closed, failure } from './failure.js';
import { newId } from './id.js';

/** How long a question may stay open. A message waits for ever: it is said or it is not. */
const ANSWER_TIMEOUT_MS = 15_000;
/** Questions that wait for their answers. More are refused with the code `full`. */
const LEN_MAX = 1000;

export class Questions {
  #line;
  #write;
  #isClosed = false;
  /** Those without an answer, by id. */
  #open = new Map();

  /** `write(frame)` says a command to the server, or to nobody if it is away. */
  constructor(line, write) {
    [this.#line, this.#write] = [line, write];
  }

  /** A sign of life is not asked again after a break: nothing is its answer then. */
  ask(command, isSign = false) {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(closed());
      if (this.#open.size >= LEN_MAX) return reject(failure('full', 'too much waits'));
      const id = newId();
      const timer = setTimeout(() => {
        this.#open.delete(id);
        reject(failure('timeout', 'no answer came in time'));
      }, ANSWER_TIMEOUT_MS);
      const frame = { ...command, id };
      this.#open.set(id, { frame, resolve, reject, timer, isSign });
      return this.#write(frame);
    });
  }

  /** The command of that id, if its answer is still to come. */
  commandOf(id) {
    return this.#open.get(id)?.frame;
  }

  /** Whether it was the answer to a question. */
  onAnswer(frame) {
    const asked = this.#open.get(frame.id);
    if (!asked) return false;
    if (frame.code === 'rate_limited') {
      this.#line.later(frame.retry_after_ms, () => this.#write(asked.frame));
      return true;
    }
    this.#open.delete(frame.id);
    clearTimeout(asked.timer);
    if (frame.type === 'error') asked.reject(new ChatError(frame));
    else asked.resolve(frame);
    return true;
  }

  onBreak() {
    for (const [id, { isSign, resolve, timer }] of this.#open) {
      if (!isSign) continue;
      this.#open.delete(id);
      clearTimeout(timer);
      resolve(undefined);
    }
  }

  /** A new connection: what is open is asked on it. */
  repeat() {
    for (const { frame } of this.#open.values()) this.#write(frame);
  }

  /** Nobody will answer any more. */
  close(error) {
    this.#isClosed = true;
    for (const { reject, timer } of this.#open.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#open.clear();
  }
}
