/** Before the page: who speaks. It asks for a name, and connects under it. */

import { connect } from './verbatim.js';
import { find, say } from './dom.js';
import { read, remove, storage, write } from './storage.js';
import { errorText } from './words.js';

const NAME_KEY = 'verbatim-page:name';
/** A connection that takes longer than this is said to be on its way. */
const WELCOME_PAUSE_MS = 400;

/** Connects under the name that is known, or asks for one; `onOpen(chat)` is called once. */
export function start(onOpen) {
  find('welcome-form').onsubmit = (event) => {
    event.preventDefault();
    const name = find('name').value.trim().normalize('NFC');
    if (name === '') welcome('Please type the name under which you want to speak.');
    else enter(name, onOpen);
  };
  const known = read(NAME_KEY);
  if (known) enter(known, onOpen);
  else welcome();
}

/** Another name is another page, from its beginning. */
export function rename() {
  remove(NAME_KEY);
  location.reload();
}

/** Asks for a name, and says what was wrong with the last one. */
function welcome(error = '') {
  find('welcome').hidden = false;
  find('welcome-form').inert = false;
  say(find('name-error'), error);
  say(find('welcome-status'), '');
  const field = find('name');
  field.setAttribute('aria-invalid', String(error !== ''));
  field.focus();
  field.select();
}

/** Connects under that name. Whether it will do the server says, and then the page begins. */
function enter(name, onOpen) {
  const url = new URL('ws', document.baseURI);
  url.protocol = url.protocol.replace('http', 'ws');
  const chat = connect(url.href, { user: name, storage });
  find('welcome-form').inert = true;
  const showStatus = setTimeout(() => {
    find('welcome').hidden = false;
    say(find('welcome-status'), 'Connecting…');
  }, WELCOME_PAUSE_MS);
  const stop = chat.on('state', ({ state, error }) => {
    if (state !== 'open' && state !== 'closed') return;
    stop();
    clearTimeout(showStatus);
    if (state === 'closed') return welcome(errorText(error));
    write(NAME_KEY, name);
    find('welcome').hidden = true;
    find('app').hidden = false;
    return onOpen(chat);
  });
}
