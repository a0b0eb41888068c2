/** Making and finding elements. Text only ever becomes text: nothing here reads markup. */

/** The element of that id, which index.html has. */
export function find(id) {
  return document.getElementById(id);
}

/** A new element. `on…` properties listen; `false` and `undefined` leave an attribute out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** Sets the text if it is another, so that a screen reader is not told the same again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children these, and touches none that stays: a button that is taken out between the
 * press of a mouse button and its release does not hear the click, and what is put in anew is read
 * out anew.
 */
export function fill(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  let there = parent.firstChild;
  for (const child of children) {
    if (child === there) there = there.nextSibling;
    else parent.insertBefore(child, there);
  }
}

/** In the background no frame is drawn, and what is due is done after this long. */
const UNSEEN_PAUSE_MS = 250;

/** Runs `act` before the next frame is drawn, once, however often it is asked for until then. */
export function soon(act) {
  let frame;
  let timer;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    timer = undefined;
    act();
  };
  return () => {
    if (timer !== undefined) return;
    timer = setTimeout(run, UNSEEN_PAUSE_MS);
    frame = requestAnimationFrame(run);
  };
}
