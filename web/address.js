/** The part of the page's address that names the open room: `#/general`. */

/** With a stroke, because a bare `#help` is to a browser the element of that id, to be shown. */
export function addressOf(name) {
  return `#/${encodeURIComponent(name)}`;
}

/** The room's name; empty: none. It may have been typed by hand, or be an old `#general`. */
export function roomAt(hash) {
  const text = hash.replace(/^#\/?/, '');
  try {
    return decodeURIComponent(text).normalize('NFC');
  } catch {
    return text;
  }
}
