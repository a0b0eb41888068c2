/** How the connection is: a word beside the name, and a line above it all if it is broken. */

import { find, say } from './dom.js';
import { errorText } from './words.js';

/** A break that is over sooner than this is not worth a line. */
const BANNER_PAUSE_MS = 1500;
const SECOND_MS = 1000;

const WORDS = {
  connecting: 'Connecting…',
  resuming: 'Catching up…',
  waiting: 'Offline',
  closed: 'Disconnected',
};

export class Status {
  #chat;
  #state;
  #error;
  /** When the next connection is tried, by `performance.now()`. */
  #retryAt = 0;
  #bannerTimer;
  #tickTimer;

  constructor(chat) {
    this.#chat = chat;
    chat.on('state', (state) => this.show(state));
    find('retry').onclick = () => chat.wake();
    for (const type of ['online', 'offline']) {
      window.addEventListener(type, () => {
        chat.wake();
        this.#draw();
      });
    }
  }

  show({ state, error, retry_ms = 0 }) {
    [this.#state, this.#error] = [state, error];
    this.#retryAt = performance.now() + retry_ms;
    say(find('status-text'), WORDS[state] ?? `Connected to ${this.#chat.node}`);
    find('status').dataset.state = state;
    if (state === 'open') {
      clearTimeout(this.#bannerTimer);
      this.#bannerTimer = undefined;
      find('banner').hidden = true;
    } else {
      this.#bannerTimer ??= setTimeout(() => { find('banner').hidden = false; }, BANNER_PAUSE_MS);
    }
    this.#draw();
  }

  #draw() {
    clearTimeout(this.#tickTimer);
    const state = this.#state;
    say(find('banner-text'), bannerText(state, this.#error));
    // It changes each second, which nobody wants to be told; so it is not part of the text.
    const rest_ms = Math.max(0, this.#retryAt - performance.now());
    const isCounting = state === 'waiting' && rest_ms > 0;
    const pause = `Next try in ${Math.ceil(rest_ms / SECOND_MS)} s.`;
    say(find('banner-pause'), isCounting ? pause : state === 'connecting' ? WORDS.connecting : '');
    find('retry').hidden = state !== 'waiting';
    if (isCounting) {
      this.#tickTimer = setTimeout(() => this.#draw(), rest_ms % SECOND_MS || SECOND_MS);
    }
  }
}

function bannerText(state, error) {
  if (state === 'closed') return `${errorText(error)} Please reload the page.`;
  if (state === 'resuming') return WORDS.resuming;
  if (state === 'open') return '';
  const why = navigator.onLine ? 'The server cannot be reached.' : 'You are offline.';
  return `${why} What you write is kept, and sent once.`;
}
