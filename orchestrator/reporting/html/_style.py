"""Define the style of the page: light and dark mode, small screens, and print.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish. The seventh is that
of the text, and so changes with the background.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --card: #f6f7f8; --muted:
  #5c6166; --rule: #d9dcdf;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9; --c6:
  var(--ink);
  --warn: #fff3d6; --warn-edge: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --paper: #16181a; --card: #1f2225;
  --muted: #a3a9ae; --rule: #3a3f44;
  --c0: #3d9bd9; --c1: #ef7d2b; --c2: #19b88a; --c3: #dd92bb; --warn: #3a2f12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "DejaVu
  Sans", sans-serif;
  -webkit-text-size-adjust: 100%; }
main, header { max-width: 1200px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 20px; }
h1 { font-size: 1.7rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 8px; padding-top: 10px; border-top: 1px solid var(--rule); }
h3, h4 { font-size: 1rem; margin: 20px 0 4px; }
h4 { font-weight: 500; }
p { margin: 6px 0; max-width: 76ch; overflow-wrap: anywhere; }
a { color: var(--c0); }
nav { margin: 12px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 0.9rem; }
.muted, figcaption, .legend, summary { color: var(--muted); font-size: 0.875rem; }
.banner { background: var(--warn); border-left: 5px solid var(--warn-edge); padding: 10px 14px;
  margin: 14px 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 10px;
  margin: 16px 0; padding: 0; }
.facts div { background: var(--card); border-radius: 6px; padding: 10px 12px; }
.facts dt { color: var(--muted); font-size: 0.8rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr));
  gap: 20px; align-items: start; }
figure { margin: 14px 0 0; min-width: 0; }
figure.broad { grid-column: 1 / -1; }
.scroll { overflow-x: auto; }
figure svg { display: block; width: 100%; max-width: 760px; height: auto; }
figure svg.wide { max-width: 100%; min-width: 600px; }
.broad .scroll img { min-width: 620px; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: 4px;
  border-radius: 4px; }
svg text { fill: var(--ink); font: 12px system-ui, "DejaVu Sans", sans-serif; }
svg text.tick { fill: var(--muted); font-size: 11px; }
svg text.small { font-size: 10px; }
svg text.inverse { fill: var(--paper); font-size: 11px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.edge { fill: none; stroke: var(--muted); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.thin { stroke-width: 1; stroke-opacity: 0.55; }
.thick { fill: none; stroke-width: 2.2; }
.crisp { shape-rendering: crispEdges; }
.hollow { fill: var(--paper); stroke-width: 1.6; }
.faint { stroke: var(--muted); stroke-width: 1; stroke-opacity: 0.4; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke:
  var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); } .s6 { stroke: var(--c6); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); }
path.line { fill: none; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0 0; padding:
  0; }
.legend li { display: flex; align-items: center; gap: 6px; min-width: 0; overflow-wrap: anywhere; }
figure svg.swatch, .swatch { width: 30px; min-width: 30px; height: 14px; display: inline-block; }
figcaption { margin-top: 4px; max-width: 76ch; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid
  var(--rule);
  white-space: nowrap; }
td.words { min-width: 18rem; white-space: normal; overflow-wrap: anywhere; }
code { font: 0.86em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 600; white-space: normal; }
td.number { text-align: right; }
tr.best td { font-weight: 600; }
#configuration pre { max-height: 30rem; overflow: auto; }
details { margin: 6px 0; }
summary { cursor: pointer; }
pre { background: var(--card); border-radius: 6px; padding: 10px 12px; overflow-x: auto;
  font: 0.82rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
footer { max-width: 1200px; margin: 40px auto 24px; padding: 0 16px; color: var(--muted); font-size:
  0.85rem; }
@media print { :root { --ink: #000000; --paper: #ffffff; --card: #f4f4f4; --muted: #444444; --rule:
  #cccccc; --c0: #0072b2;
  --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --warn: #ffffff; color-scheme: light; }
  body { font-size: 11pt; } nav { display: none; } .scroll { overflow: visible; } figure svg.wide {
  min-width: 0; }
  figure, tr, .facts div { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  #configuration pre { max-height: none; } .broad .scroll img { min-width: 0; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  svg, .facts div, .banner { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { font-size: 7.5pt; } th, td { padding-right: 7px; } td.words { min-width: 7rem; } }
"""
