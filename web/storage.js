/** What the page keeps in the browser, under keys of its own. */

/** A page may be forbidden to keep anything; then it remembers until it is closed. */
export const storage = openStorage();

function openStorage() {
  try {
    localStorage.setItem('verbatim-page:try', '1');
    localStorage.removeItem('verbatim-page:try');
    return localStorage;
  } catch {
    const kept = new Map();
    return {
      get length() { return kept.size; },
      key: (place) => [...kept.keys()][place],
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key),
    };
  }
}

/** A value that was kept; nothing, if somebody else has written there. */
export function read(key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}
