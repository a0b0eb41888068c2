/**
 * The line to a server: one WebSocket after the other, with a pause in between.
 *
 * It knows when a connection stands, when it has died without a word, and when to come back. What
 * is said on it is its owner's affair, but for `hello` and `goodbye`.
 */

/** Close codes after which the same would only happen again. */
const FINAL_CODES = new Set([1002, 1003, 1007, 1008, 1009]);
/** The first pause is at most the first number, and doubles up to the second. */
const BACKOFF_MS = [1000, 30_000];
/** How long a connection may take until its `hello`. */
const HELLO_TIMEOUT_MS = 10_000;
/** After `wake()`: how long a connection may take to show that it still lives. */
const WAKE_TIMEOUT_MS = 5000;

export class Line {
  #url;
  #WebSocket;
  #owner;
  #backoff;
  #socket = null;
  #timer;
  #heartbeat;
  #attempts = 0;
  /** Something came since the last look. */
  #heard = false;
  /** It is being seen whether the connection lives: a second look would only put off the first. */
  #isTested = false;
  /** What the last `goodbye` asked for. */
  #pause_ms;
  /** The server reads: it said `hello`, and no `goodbye` yet. */
  isOpen = false;

  /** `owner` has `onState(state, more)`, `onFrame(frame)` and `onBreak()`. */
  constructor(url, { WebSocket = globalThis.WebSocket, backoff_ms = BACKOFF_MS }, owner) {
    if (!WebSocket) throw new TypeError('there is no WebSocket here: give one in the options');
    [this.#url, this.#WebSocket, this.#backoff, this.#owner] = [url, WebSocket, backoff_ms, owner];
  }

  open() {
    const socket = new this.#WebSocket(this.#url);
    this.#socket = socket;
    this.#after(HELLO_TIMEOUT_MS, () => this.cut());
    // A socket that was given up may still have something to say; it is not heard.
    const ifCurrent = (act) => (event) => socket === this.#socket && act(event);
    socket.onmessage = ifCurrent(({ data }) => this.#on(JSON.parse(data)));
    socket.onclose = ifCurrent(({ code, reason }) => this.cut(code, reason));
    // Its reason, if there is one to be had, comes with the close.
    socket.onerror = () => {};
    this.#owner.onState('connecting');
  }

  /** Says it now, or not at all. */
  write(frame) {
    if (this.isOpen) this.#socket.send(JSON.stringify(frame));
  }

  /** All that was missed is here: the next break is the first one again. */
  settle() {
    this.#attempts = 0;
  }

  /** Something changed (the network is back or gone, the laptop was opened): see at once. */
  wake() {
    if (!this.#socket) return this.open();
    if (!this.isOpen || this.#isTested) return undefined;
    this.#isTested = true;
    this.#ask();
    return this.#after(WAKE_TIMEOUT_MS, () => {
      this.#isTested = false;
      if (this.#heard) this.#beat();
      else this.cut();
    });
  }

  /** The connection is over, whether it says so or has just gone silent. */
  cut(code, reason) {
    this.close();
    if (FINAL_CODES.has(code)) {
      const why = reason || 'the server will not talk to this client';
      return this.#owner.onState('refused', { reason: `${why} (${code})` });
    }
    const delay = this.#delay();
    this.#after(delay, () => this.open());
    this.#owner.onState('waiting', { retry_ms: Math.round(delay), code, reason });
  }

  /** Ends it for good, unless `open` is called again. */
  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    [this.#socket, this.isOpen, this.#isTested] = [null, false, false];
    socket?.close();
    this.#owner.onBreak();
  }

  /** Does it after a while on this same connection, or not at all. */
  later(delay, act) {
    const socket = this.#socket;
    setTimeout(() => socket === this.#socket && act(), delay);
  }

  /** Half of the pause is certain and half is chance. */
  backoff(attempts) {
    return (0.5 + Math.random() / 2) * this.#limit(attempts);
  }

  /**
   * Full jitter: those who were thrown out together do not come back together. After a `goodbye`
   * the pause is the server's wish, and spread over as much again.
   */
  #delay() {
    const wish = this.#pause_ms;
    this.#pause_ms = undefined;
    this.#attempts += 1;
    return wish === undefined
      ? Math.random() * this.#limit(this.#attempts - 1)
      : wish * (1 + Math.random());
  }

  #limit(attempts) {
    const [first, most] = this.#backoff;
    return Math.min(most, first * 2 ** attempts);
  }

  #on(frame) {
    this.#heard = true;
    if (frame.type === 'hello') {
      this.isOpen = true;
      this.#heartbeat = frame.heartbeat_ms;
      this.#beat();
    } else if (frame.type === 'goodbye') {
      // What was sent before is still answered; what would be sent now is not read.
      this.isOpen = false;
      this.#pause_ms = frame.reconnect_ms;
    }
    this.#owner.onFrame(frame);
  }

  /**
   * Browsers do not show the server's pings, so a silent connection is asked for a sign. Only one
   * that was asked and said nothing is dead: timers of a page in the background come late.
   */
  #beat() {
    const isSilent = !this.#heard;
    if (isSilent) this.#ask();
    this.#heard = false;
    this.#after(this.#heartbeat, () => (isSilent && !this.#heard ? this.cut() : this.#beat()));
  }

  #ask() {
    this.#heard = false;
    this.write({ type: 'ping' });
  }

  #after(delay, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, delay);
  }
}
