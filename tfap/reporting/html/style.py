"""The style of the page: light and dark, from a phone to a desktop, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6675; --line: #dfe3e8; --bar: #e8ecf1;
  --good: #117a4b; --bad: #b3261e; --dead: #d1495b;
  --c0: #6b7785; --c1: #2563c9; --c2: #c2570c; --c3: #0f8a6d; --c4: #8b46c4; --c5: #b02a6b; --c6: #8a7400;
  --heat: 37, 99, 201;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11161d; --card: #1a212b; --ink: #e6eaf0; --soft: #a0abb9; --line: #2f3945; --bar: #2a333f;
    --good: #5fd39a; --bad: #ff8a80; --dead: #ff7d8e;
    --c0: #9aa6b5; --c1: #6ea8ff; --c2: #ffa25e; --c3: #4fd1b0; --c4: #c79bff; --c5: #ff86bd; --c6: #e0c84b;
    --heat: 110, 168, 255;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 8px; overflow-wrap: anywhere; }
p { margin: 0 0 8px; overflow-wrap: anywhere; }
.pictures + .soft { margin-top: 12px; }
.soft, footer, .axis { color: var(--soft); }
section, .card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px; margin: 16px 0 0;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px; }
.cards .card { margin: 0; padding: 12px 14px; }
.card .value { font-size: 1.5rem; font-weight: 650; line-height: 1.2; }
.card .label { color: var(--soft); font-size: .875rem; }
.model { margin: 16px 0 8px; font-weight: 650; overflow-wrap: anywhere; }
.verdict li { margin-bottom: 6px; overflow-wrap: anywhere; }
.verdict { padding-left: 20px; margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
.caption { color: var(--soft); font-size: .875rem; }
th, td { padding: 6px 10px 6px 0; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; overflow-wrap: anywhere; min-width: 90px; }
.bars td { min-width: 110px; width: 34%; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px 24px; }
.pictures h3 { margin-top: 4px; }
.bar { height: 9px; border-radius: 5px; background: var(--bar); margin-top: 4px; overflow: hidden; }
.bar div { height: 100%; border-radius: 5px; min-width: 1px; }
.legend + .caption { margin-top: 12px; }
.legend { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.legend li { overflow-wrap: anywhere; }
.dot {
  display: inline-block; min-width: 1.25rem; height: 1.25rem; border-radius: .7rem; margin-right: 6px;
  color: var(--card); font-size: .75rem; font-weight: 700; text-align: center; line-height: 1.25rem;
}
svg { display: block; width: 100%; height: auto; }
svg.scatter { max-width: 560px; }
svg text { fill: var(--soft); font-size: 10.5px; font-family: inherit; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .whisker { stroke-width: 2; }
svg .number { fill: var(--card); font-weight: 700; font-size: 10px; }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: 16px; }
figure { margin: 0; }
figcaption { font-size: .8125rem; overflow-wrap: anywhere; }
figcaption b { display: block; }
.axis { display: flex; justify-content: space-between; font-size: .75rem; }
.silent { color: var(--dead); font-weight: 600; }
.heat td { text-align: center; white-space: nowrap; min-width: 54px; padding: 6px 4px; }
.heat td { border: 2px solid var(--card); }
.heat th { vertical-align: middle; }
.heat thead th + th { text-align: center; padding-right: 4px; }
.plain td { white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
footer { margin-top: 24px; font-size: .8125rem; }
.scroll:focus-visible { outline: 2px solid var(--c1); outline-offset: 4px; }
@media (max-width: 480px) {
  main { padding: 16px 10px 32px; }
  section { padding: 14px; }
  .bars, .bars thead, .bars tbody { display: block; }
  .bars tr { display: flex; flex-wrap: wrap; gap: 0 14px; }
  .bars tbody th { flex: 0 0 100%; padding-bottom: 0; }
  .bars thead th:first-child { display: none; }
  .bars thead th, .bars td { flex: 1 1 0; min-width: 0; width: auto; padding-right: 0; }
  .bars td { border-top: 0; padding-top: 2px; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --bar: #e8e8e8;
    --good: #117a4b; --bad: #b3261e; --dead: #d1495b;
    --c0: #6b7785; --c1: #2563c9; --c2: #c2570c; --c3: #0f8a6d; --c4: #8b46c4; --c5: #b02a6b; --c6: #8a7400;
    --heat: 37, 99, 201;
  }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin-top: 20px; }
  figure, tr, .card { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""

_COLORS = 7


def color(index: int) -> str:
    """Returns the color of a model by its index; the first is the neutral one of a baseline."""
    return f"var(--c{index if index < _COLORS else 1 + (index - 1) % (_COLORS - 1)})"
