/** Where a message is written: one field that grows, a draft for each room, and Enter. */

import { find, say } from './dom.js';

export class Composer {
  #onSend;
  #onTyping;
  #form = find('composer');
  #field = find('message');
  #error = find('composer-error');
  /** What was begun in rooms that are not open, by name. It ends with the page. */
  #drafts = new Map();
  #name;

  constructor({ onSend, onTyping, onScroll }) {
    [this.#onSend, this.#onTyping] = [onSend, onTyping];
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    this.#field.oninput = () => {
      this.#fit();
      say(this.#error, '');
      if (this.#field.value.trim() !== '') this.#onTyping();
    };
    this.#field.onkeydown = (event) => {
      if (event.key === 'PageUp' || event.key === 'PageDown') {
        event.preventDefault();
        onScroll(event.key === 'PageUp' ? -1 : 1);
      }
      // While a word is being composed (Japanese, Chinese), Enter ends the word. Safari says first
      // that the word has ended, and by 229 that the key was part of it.
      const isComposing = event.isComposing || event.keyCode === 229;
      if (event.key !== 'Enter' || event.shiftKey || isComposing || isTouch()) return;
      event.preventDefault();
      this.#send();
    };
  }

  show(name) {
    if (this.#name !== undefined) this.#drafts.set(this.#name, this.#field.value);
    this.#name = name;
    this.#field.value = this.#drafts.get(name) ?? '';
    this.#field.placeholder = `Message ${name}`;
    this.#field.setAttribute('aria-label', `Message to ${name}`);
    say(this.#error, '');
    this.#fit();
  }

  focus() {
    this.#field.focus();
  }

  #send() {
    const text = this.#field.value;
    // Nothing, or only white space, is nobody's message. Else it goes out as it was typed.
    if (text.trim() === '') return;
    const error = this.#onSend(text);
    say(this.#error, error ?? '');
    if (error) return;
    this.#field.value = '';
    this.#fit();
  }

  /** As high as the text; style.css says where that ends. Out of sight it has no height. */
  #fit() {
    const field = this.#field;
    field.style.height = 'auto';
    if (field.scrollHeight === 0) return;
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  }
}

/** Keyboards on glass have no Shift and Enter: there Enter is a new line, and the button sends. */
function isTouch() {
  return matchMedia('(pointer: coarse)').matches && !matchMedia('(any-pointer: fine)').matches;
}
