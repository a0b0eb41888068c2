/** Before the page: who speaks. It asks for a name, and connects under it. */

import { connect } from './verbatim.js';
import { find, say } from './dom.js';
import { read, remove, storage, write } from './storage.js';
import { errorText } from './words.js';

const NAME_KEY = 'verbatim-page:name';
/** The name before, which may be wanted again. */
const LAST_NAME_KEY = 'verbatim-page:last-name';
/** A connection that takes longer than this is said to be on its way. */
const WELCOME_PAUSE_MS = 400;
/** The page came, but no connection: then something between the two may be in the way. */
const UNREACHED = 'No connection yet; it is tried again and again. If that goes on, the server is '
  + 'away, or something on the way to it (a proxy, a filter) does not let WebSockets through.';

/** Connects under the name that is known, or asks for one; `onOpen(chat)` is called once. */
export function start(onOpen) {
  find('welcome-form').onsubmit = (event) => {
    event.preventDefault();
    const name = find('name').value.trim().normalize('NFC');
    if (name === '') welcome('Please type the name under which you want to speak.');
    else enter(name, onOpen);
  };
  const known = read(NAME_KEY);
  if (known) return enter(known, onOpen);
  find('name').value = read(LAST_NAME_KEY) ?? '';
  return welcome();
}

/** Another name is another page, from its beginning. */
export function rename() {
  write(LAST_NAME_KEY, read(NAME_KEY));
  remove(NAME_KEY);
  location.reload();
}

/** Asks for a name, and says what was wrong with the last one. */
function welcome(error = '') {
  show(false);
  say(find('name-error'), error);
  say(find('welcome-status'), '');
  const field = find('name');
  field.setAttribute('aria-invalid', String(error !== ''));
  field.focus();
  field.select();
}

function show(isBusy) {
  find('welcome').hidden = false;
  find('welcome-form').inert = isBusy;
}

/** Connects under that name. Whether it will do the server says, and then the page begins. */
function enter(name, onOpen) {
  find('name').value = name;
  find('welcome-form').inert = true;
  let chat;
  try {
    chat = connect(url(), { user: name, storage });
  } catch (error) {
    return welcome(`This browser cannot connect: ${error.message}.`);
  }
  const showStatus = setTimeout(() => {
    show(true);
    say(find('welcome-status'), 'Connecting…');
  }, WELCOME_PAUSE_MS);
  const stop = chat.on('state', ({ state, error }) => {
    if (state === 'waiting') {
      clearTimeout(showStatus);
      show(true);
      return say(find('welcome-status'), UNREACHED);
    }
    if (state !== 'open' && state !== 'closed') return undefined;
    stop();
    clearTimeout(showStatus);
    if (state === 'closed') return welcome(errorText(error));
    write(NAME_KEY, name);
    find('welcome').hidden = true;
    find('app').hidden = false;
    return onOpen(chat);
  });
  return undefined;
}

function url() {
  const there = new URL('ws', document.baseURI);
  there.protocol = there.protocol.replace('http', 'ws');
  return there;
}
