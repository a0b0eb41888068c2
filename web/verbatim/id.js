/** Ids of commands: new ones, and what an id may be. */

/**
 * A new one: unique, not secret. (`crypto.randomUUID` is missing in pages that came by plain HTTP.)
 */
export function newId() {
  const words = globalThis.crypto?.getRandomValues(new Uint32Array(4))
    ?? Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 32));
  return Array.from(words, (word) => word.toString(16).padStart(8, '0')).join('');
}

/** What the protocol takes as one. */
export function isId(id) {
  return typeof id === 'string' && /^[ -~]{1,64}$/.test(id);
}
