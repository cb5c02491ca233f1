// Elements, and what characters are shown as. Text is only ever set as text.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

const ODD = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;

// A character where it must be seen: a blank, a line's end, and what would not show or would do
// something to its neighbours.
function visible(character) {
  if (character === "\n") return "↵";
  if (character === "\t") return "⇥";
  if (character === " ") return "␣";
  return ODD.test(character) ? `\\u{${character.codePointAt(0).toString(16)}}` : character;
}

function visibleText(text) {
  return Array.from(text, visible).join("");
}

// The same with its blanks as they are.
function plainText(text) {
  return visibleText(text).replace(/␣/g, " ");
}

// A symbol inside the text: its blanks and line ends do what they do.
function inText(symbol) {
  return Array.from(symbol, (character) => {
    if (character === "\n") return "↵\n";
    return character === " " ? " " : visible(character);
  }).join("");
}

function percent(share) {
  const value = 100 * share;
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}
