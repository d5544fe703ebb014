"""The site's style sheet, and the page that serves it.

A page like the others, so that the site needs no second handler for static
files, and so that an edit here is an edit of every page: `layout` imports
this file, the pages import `layout`.
"""

import hashlib

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f5f4ef; --sheet: #fff; --ink: #1b2430; --quiet: #566170; --line: #dedbd1;
  --accent: #0b6e69; --on-accent: #fff; --tint: #e3f1ef; --warm: #9a4a12; --warm-tint: #fbf0e4; --bad: #a3262b;
  --round: .6rem;
  font: 100%/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #10151c; --sheet: #181f29; --ink: #e9e6df; --quiet: #a3adb9; --line: #2d3846;
    --accent: #63cbc2; --on-accent: #06201e; --tint: #15302f; --warm: #f0ad74; --warm-tint: #2a2119; --bad: #ff9a96;
  }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: flex; flex-direction: column; background: var(--paper);
  color: var(--ink); }
.wrap { width: min(76rem, 100%); margin-inline: auto; padding-inline: clamp(1rem, 3vw, 2rem); }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem 1rem; background: var(--sheet); z-index: 1; }
a { color: var(--accent); text-underline-offset: .15em; }
:focus-visible { outline: .18rem solid var(--accent); outline-offset: .15rem; border-radius: .2rem; }
code, kbd, .code { font: .9em/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { padding: .1em .3em; border-radius: .25rem; background: color-mix(in srgb, var(--ink) 8%, transparent); }
pre { overflow-x: auto; padding: .9rem 1rem; border: 1px solid var(--line); border-radius: var(--round);
  background: var(--sheet); }
pre code { padding: 0; background: none; }

.top { background: var(--sheet); border-bottom: 1px solid var(--line); }
.top .wrap { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem 2rem; padding-block: .7rem; }
.brand { display: flex; align-items: center; gap: .5rem; font-weight: 700; color: inherit; text-decoration: none; }
.brand svg { width: 1.5rem; fill: var(--accent); stroke: var(--sheet); stroke-width: .8; }
.brand path { fill: none; }
nav ul { display: flex; flex-wrap: wrap; gap: .1rem .25rem; margin: 0 0 0 -.6rem; padding: 0; list-style: none; }
nav a { display: block; padding: .3rem .6rem; border-radius: var(--round); color: var(--quiet); text-decoration: none; }
nav a:hover { color: var(--ink); background: var(--paper); }
nav a[aria-current] { color: var(--accent); background: var(--tint); font-weight: 600; }

.columns { flex: 1; display: grid; gap: 2.5rem; padding-block: clamp(1.2rem, 4vw, 2.8rem); }
main { min-width: 0; }
h1 { margin: 0 0 .9rem; font-size: clamp(1.8rem, 5vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em;
  text-wrap: balance; }
h1:has(+ .lead) { margin-bottom: .4rem; }
h1 .flag { margin-right: .25em; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .7rem; }
.lead { max-width: 42rem; margin: 0 0 1.4rem; font-size: 1.1rem; color: var(--quiet); }
.quiet { color: var(--quiet); }

aside { align-self: start; padding: 1.1rem 1.3rem; border: 1px solid var(--line); border-left: .25rem solid var(--warm);
  border-radius: var(--round); background: var(--warm-tint); font-size: .95rem; }
aside h2 { margin: 0 0 .6rem; color: var(--warm); }
aside dl { margin: 0; }
aside dt { margin-top: .9rem; font-weight: 700; }
aside dd { margin: .15rem 0 0; overflow-wrap: anywhere; }
@media (min-width: 64rem) {
  .columns { grid-template-columns: minmax(0, 1fr) 19rem; }
  aside { position: sticky; top: 1.5rem; }
}

.tiles { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem;
  margin: 0 0 2rem; padding: 0; list-style: none; }
.tiles a, .tiles .tile { display: block; height: 100%; padding: .9rem 1.1rem; border: 1px solid var(--line);
  border-radius: var(--round); background: var(--sheet); color: var(--quiet); text-decoration: none; }
.tiles a:hover { border-color: var(--accent); }
.tiles b { display: block; font-size: 1.9rem; line-height: 1.2; color: var(--ink); letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
@media (min-width: 48rem) { .tiles { grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); } }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .8rem;
  margin: 0; padding: 0; list-style: none; }
.cards li { position: relative; padding: 1rem 1.1rem; border: 1px solid var(--line); border-radius: var(--round);
  background: var(--sheet); }
.cards li:hover { border-color: var(--accent); }
.cards a { font-weight: 700; text-decoration: none; }
.cards a::after { content: ""; position: absolute; inset: 0; }
.cards p { margin: .25rem 0 0; font-size: .95rem; color: var(--quiet); }

.search, .form { margin: 0 0 1.2rem; }
label, legend { display: block; margin-bottom: .25rem; font-weight: 600; font-size: .95rem; }
.search div { display: flex; gap: .5rem; max-width: 34rem; }
input, select, textarea, button { font: inherit; color: inherit; padding: .5rem .75rem; border: 1px solid var(--line);
  border-radius: var(--round); background: var(--sheet); }
input, select, textarea { width: 100%; min-height: 2.7rem;
  border-color: color-mix(in srgb, var(--quiet) 75%, transparent); }
button { border-color: transparent; background: var(--accent); color: var(--on-accent); font-weight: 600;
  cursor: pointer; }
button:hover { filter: brightness(1.1); }
.form { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); gap: .9rem;
  align-items: end; padding: 1.2rem; border: 1px solid var(--line); border-radius: var(--round);
  background: var(--sheet); }
.form .wide { grid-column: 1 / -1; }
.form button { justify-self: start; }
.error, .done { margin: 0 0 1rem; padding: .7rem 1rem; border-radius: var(--round); border: 1px solid; }
.error { color: var(--bad); background: color-mix(in srgb, var(--bad) 8%, var(--sheet)); }
.done { color: var(--accent); background: var(--tint); }

.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: var(--round); background: var(--sheet); }
table { width: 100%; border-collapse: collapse; }
caption { padding: .7rem 1rem; text-align: left; color: var(--quiet); }
th, td { padding: .5rem 1rem; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-size: .85rem; font-weight: 600; color: var(--quiet); white-space: nowrap; }
tbody tr:hover { background: color-mix(in srgb, var(--accent) 6%, transparent); }
tr.mine { background: var(--tint); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
.flag { font-family: "Noto Color Emoji", "Apple Color Emoji", "Segoe UI Emoji", sans-serif; font-weight: 400; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .2rem 1.5rem;
  margin: 0 0 1.5rem; padding: 1rem 1.2rem; border: 1px solid var(--line); border-radius: var(--round);
  background: var(--sheet); }
.facts dt { color: var(--quiet); font-size: .85rem; }
.facts dd { margin: 0 0 .4rem; font-weight: 600; }
.pages { display: flex; justify-content: space-between; gap: 1rem; margin-top: 1rem; }
.notes { margin: 0; padding: 0; list-style: none; }
.notes li { margin-bottom: .8rem; padding: .9rem 1.1rem; border: 1px solid var(--line); border-radius: var(--round);
  background: var(--sheet); }
.notes p { margin: 0 0 .3rem; white-space: pre-line; overflow-wrap: anywhere; }

footer { padding-block: 1rem 1.4rem; border-top: 1px solid var(--line); background: var(--sheet); }
footer h2 { margin: 0 0 .6rem; font-size: .95rem; }
.chain { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem 1.4rem; margin: 0; padding: 0;
  list-style: none; }
.link { position: relative; overflow-wrap: anywhere; line-height: 1.3; }
.link b { display: block; font: 600 .95rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  color: var(--accent); }
.link .what { font-size: .8rem; font-weight: 600; }
.link .more { display: block; font-size: .75rem; color: var(--quiet); }
@media (min-width: 64rem) {
  .chain { grid-template-columns: repeat(5, auto) minmax(0, 1.6fr); }
  .link b { font-size: 1.05rem; line-height: 1.4; }
  .link + .link::before { content: "\\203A"; position: absolute; left: -1rem; top: 1.1rem; color: var(--quiet); }
}
/* In view while you edit, where there is room for it. */
@media (min-width: 64rem) and (min-height: 40rem) {
  :root { scroll-padding-bottom: 6rem; }
  footer { position: sticky; bottom: 0; padding-block: .6rem .7rem; }
  footer h2 { position: absolute; clip-path: inset(50%); }
}
"""

# Part of the address that the pages link to: a browser keeps the style sheet
# for a year, and asks for the new one as soon as there is one.
VERSION = hashlib.sha256(CSS.encode()).hexdigest()[:12]


def index(req):
    """`/style`: the style sheet."""
    req.content_type = "text/css; charset=utf-8"
    req.headers_out["Cache-Control"] = "public, max-age=31536000, immutable"
    return CSS
