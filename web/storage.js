/**
 * The browser's storage, which may be forbidden, and may be full at any time.
 *
 * Forbidden to read, it is replaced by memory that lasts as long as the page. Full, it keeps what
 * it has, and who writes is told.
 */

export const storage = openStorage();

function openStorage() {
  try {
    localStorage.getItem('');
    return localStorage;
  } catch {
    const kept = new Map();
    return {
      get length() { return kept.size; },
      key: (place) => [...kept.keys()][place] ?? null,
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => { kept.set(key, value); },
      removeItem: (key) => { kept.delete(key); },
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

/** Whether it is kept now. */
export function write(key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export function remove(key) {
  try {
    storage.removeItem(key);
  } catch {
    // It was not to be kept. Somebody will come upon it once more.
  }
}

/** Keys that begin so. */
export function keysOf(prefix) {
  try {
    const all = Array.from({ length: storage.length }, (_, place) => storage.key(place));
    return all.filter((key) => key?.startsWith(prefix));
  } catch {
    return [];
  }
}
