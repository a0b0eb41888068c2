/** A word about something that went wrong, for a while. */

import { find, say } from './dom.js';

const SHOWN_MS = 6000;
let timer;

export function toast(text) {
  const element = find('toast');
  say(element, text);
  element.classList.add('shown');
  clearTimeout(timer);
  timer = setTimeout(() => {
    element.classList.remove('shown');
    say(element, '');
  }, SHOWN_MS);
}
