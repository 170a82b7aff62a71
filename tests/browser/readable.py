"""What a page must be for eyes and for screen readers: scripts that run in it and say what is amiss."""

#: WCAG 2.1 AA of every text that is seen, and of the edges of what one fills in or presses; as it says what is amiss.
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ratio = (one, two) => {
    const [high, low] = [luminance(one), luminance(two)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    throw new Error("nothing behind");
  };
  const amiss = [];
  const judge = (element, css, needed, what, back = behind(element)) => {
    const found = ratio(rgba(css), back);
    if (found < needed) amiss.push(`${element.tagName} ${what} "${element.textContent.trim().slice(0, 30)}" ${found.toFixed(2)}`);
  };
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility() || element.disabled) continue;
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (own) judge(element, style.color, large ? 3 : 4.5, "text");
    if (element.matches("input:not([type=hidden], [type=checkbox]), select, textarea")) {
      judge(element, style.color, 4.5, "value");
      judge(element, style.borderTopColor, 3, "edge", behind(element.parentElement));
      if (element.placeholder) judge(element, getComputedStyle(element, "::placeholder").color, 4.5, "placeholder");
    }
    if (element.matches("button")) judge(element, style.borderTopColor, 3, "edge", behind(element.parentElement));
  }
  return amiss;
}
"""
#: What a screen reader, or somebody without a mouse, could not make sense of.
UNNAMED = """
() => {
  const amiss = [];
  const named = (element) => (element.getAttribute("aria-label") || element.textContent).trim();
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels.length) amiss.push(`no label: ${field.outerHTML}`);
  }
  for (const element of document.querySelectorAll("button, a")) if (!named(element)) amiss.push(element.outerHTML);
  const words = (text) => text.replace(/[….]/g, "").replace(/\\s+/g, " ").trim().toLowerCase();
  for (const element of document.querySelectorAll("button[aria-label], a[aria-label]")) {
    // WCAG 2.5.3: who speaks to the machine says what they see.
    if (!words(named(element)).includes(words(element.textContent))) amiss.push(`not as it reads: ${element.outerHTML}`);
  }
  const names = [...document.querySelectorAll("main button")].map(named);
  for (const name of new Set(names)) {
    if (names.filter((other) => other === name).length > 1) amiss.push(`several buttons are called ${name}`);
  }
  for (const tag of ["main", "h1"]) if (document.querySelectorAll(tag).length !== 1) amiss.push(`not one ${tag}`);
  let level = 1;
  for (const heading of document.querySelectorAll("main :is(h1, h2, h3, h4)")) {
    if (Number(heading.tagName[1]) > level + 1) amiss.push(`a level is left out before ${heading.textContent}`);
    level = Number(heading.tagName[1]);
  }
  for (const table of document.querySelectorAll("table")) {
    if (![...table.querySelectorAll("th")].every((cell) => cell.scope)) amiss.push("a table's head without scope");
  }
  for (const positive of document.querySelectorAll("[tabindex]")) if (positive.tabIndex > 0) amiss.push("a tabindex");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) amiss.push("an id twice");
  return amiss;
}
"""
#: The landmarks that a page of several has besides.
LANDMARKS = """() => ["header", "nav"].filter((tag) => document.querySelectorAll(tag).length !== 1)"""
