"""Colours and fonts of every page: explanations, the page of the server, the list of its routes."""

from __future__ import annotations

PAGE_STYLE = """\
:root {
  color-scheme: light dark;
  --paper: light-dark(#f5f4f0, #131412);
  --card: light-dark(#fffefb, #1b1d1a);
  --sunk: light-dark(#f0eee8, #242622);
  --ink: light-dark(#1c1c19, #ecebe5);
  --soft: light-dark(#66635b, #a3a097);
  --line: light-dark(#e2dfd7, #30332e);
  --edge: light-dark(#8e8b82, #74786f);
  --accent: light-dark(#0c6b5e, #6fcfbd);
  --on-accent: light-dark(#ffffff, #08201c);
  --wash: light-dark(#dcece8, #1d3732);
  --fault: light-dark(#a3281e, #ff9d8f);
  --fault-wash: light-dark(#fbe9e6, #3a1f1b);
  --note: light-dark(#7a5200, #e5bd6a);
  --for: light-dark(#149c88, #3fb6a3);
  --against: light-dark(#d9820f, #d98f3a);
  --sans: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans",
    Arial, "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "JetBrains Mono", Menlo, Consolas,
    "Liberation Mono", monospace, "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei";
}
"""
"""CSS variables, each with its value for light and for dark. Latin fonts stand before those with
Chinese characters, which would otherwise set Latin letters and digits as well."""
