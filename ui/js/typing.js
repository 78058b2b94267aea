// Gradio 6.31's Textbox tells of its event `input` at a `keypress` only, which no browser sends for what is pasted, cut, deleted, dictated
// or put together by an input method: a corrected field stayed wrong, a pasted name was not looked at. Every change of the text counts
// here, once: the key that brought it is kept from the Textbox, except Enter, which submits.
(() => {
  const isTextbox = (target) => target instanceof Element && target.matches('[data-testid="textbox"], [data-testid="password"]');
  addEventListener('keypress', (event) => {
    if (event.isTrusted && event.key !== 'Enter' && isTextbox(event.target)) event.stopPropagation();
  }, true);
  addEventListener('input', (event) => {
    if (isTextbox(event.target)) event.target.dispatchEvent(new KeyboardEvent('keypress', { bubbles: true }));
  });
})();
