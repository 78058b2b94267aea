// A table of any length of which only the rows near the view are there. The page asks for more by the event `select`, whose index is the
// row wanted, and gets them as the prop `piece` (see ui.dataset_findings). Rows may differ in height: those that are not there are taken
// for as high as the first ones were on average, and what stands in the view never moves when others come or go.
const ROWS_KEPT = 150, NEAR_PX = 1200, TALLEST_PX = 8e6, PATIENCE_MS = 5000, STILL_MS = 80;
let box, above, body, below, total, first, last, unit, asked, pause, frame;

const height = () => body.getBoundingClientRect().height;

function start() {
  box = element.querySelector('.long-list');
  asked = 0;
  if (!box) return;
  [above, below] = box.querySelectorAll('.gap');
  body = box.querySelector('tbody');
  total = Number(box.dataset.total);
  first = 0;
  last = body.rows.length;
  unit = 0;
  box.scrollTop = 0;
  look();
}

function measure() {
  if (!unit && height()) unit = Math.min(height() / last, TALLEST_PX / total);
  return unit;
}

function space() {
  above.style.height = `${Math.max(0, first * unit)}px`;
  below.style.height = `${(total - last) * unit}px`;
}

// Where the rows begin to be seen, below the head, in the window's pixels.
const edge = () => box.getBoundingClientRect().top + box.querySelector('thead').offsetHeight;

// The part of the table's body that is seen, in pixels from its upper end.
function seen() {
  const from = edge() - body.getBoundingClientRect().top;
  return [from, from + box.clientHeight - box.querySelector('thead').offsetHeight];
}

function look() {
  if (!box || !measure()) return;
  if (!below.style.height) space();
  say();
  const [from, to] = seen();
  clearTimeout(pause);
  if (to < 0 || from > height()) pause = setTimeout(() => ask(Math.round(share() * total) - 12), STILL_MS);
  else if (to > height() - NEAR_PX && last < total) ask(last);
  else if (from < NEAR_PX && first > 0) ask(first - Number(box.dataset.piece));
}

// How far down the view is: 0 at the upper end of the list, 1 at its lower end.
const share = () => box.scrollTop / Math.max(1, box.scrollHeight - box.clientHeight);

function ask(index) {
  if (Date.now() - asked < PATIENCE_MS) return;
  asked = Date.now();
  trigger('select', {index: Math.max(0, Math.min(index, total - 1))});
}

function take() {
  const piece = props.piece;
  asked = 0;
  if (!box || !piece || piece.of !== box.dataset.of) return;
  const rows = new DOMParser().parseFromString(`<table><tbody>${piece.rows}</tbody></table>`, 'text/html').querySelectorAll('tr');
  if (piece.first === last) append(rows);
  else if (piece.first + rows.length >= first && piece.first < first) prepend([...rows].slice(0, first - piece.first));
  else put(piece.first, rows);
  look();
}

function append(rows) {
  body.append(...rows);
  last += rows.length;
  while (last - first > ROWS_KEPT && seen()[0] > NEAR_PX + body.rows[0].offsetHeight) {
    const before = height();
    body.rows[0].remove();
    above.style.height = `${parseFloat(above.style.height) + before - height()}px`;
    first += 1;
  }
  below.style.height = `${(total - last) * unit}px`;
}

function prepend(rows) {
  const before = height();
  body.prepend(...rows);
  first -= rows.length;
  const there = parseFloat(above.style.height), left = there - (height() - before), right = first ? left : 0;
  above.style.height = `${Math.max(0, right)}px`;
  if (right !== left || left < 0) box.scrollTop += Math.max(0, right) - left;
  while (last - first > ROWS_KEPT && height() - seen()[1] > NEAR_PX + body.rows[body.rows.length - 1].offsetHeight) {
    body.rows[body.rows.length - 1].remove();
    last -= 1;
  }
  below.style.height = `${(total - last) * unit}px`;
}

function put(from, rows) {
  const far = share();
  body.replaceChildren(...rows);
  [first, last] = [from, from + rows.length];
  space();
  const row = body.rows[Math.min(rows.length - 1, Math.max(0, Math.round(far * (total - 1)) - from))];
  const [up, down] = seen();
  box.scrollTop += row.getBoundingClientRect().top - edge() - far * (down - up - row.offsetHeight);
}

function say() {
  const [from, to] = seen(), top = body.getBoundingClientRect().top;
  const there = [...body.rows].map((row, number) => [row.getBoundingClientRect(), first + number + 1])
    .filter(([at]) => at.bottom - top > from + 4 && at.top - top < to - 4).map(([, number]) => number.toLocaleString('en'));
  const said = element.querySelector('.seen');
  if (said) said.textContent = there.length ? `, ${there[0]} to ${there[there.length - 1]} in view` : '';
}

function later() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(look);
}

element.addEventListener('scroll', later, true);
new ResizeObserver(later).observe(element);
watch('value', start);
watch('piece', take);
start();
