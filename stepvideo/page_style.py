"""CSS and script of the pages that are one file: inline, nothing is fetched."""

from __future__ import annotations

from stepvideo import svg

CSS = (
    f":root{{{svg.LIGHT}}}{svg.STYLE}"
    + """:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--good:#1c6b3f;--bad:#a12c3d;--open:#7a5b00}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1b1f25;--fg:#e6e8eb;--soft:#9aa4b1;--rule:#313740;
--hit:#ffffff11;--c0:#6aa9e9;--c1:#ea9359;--c2:#6cc08d;--c3:#b793df;--c4:#e8798a;--c5:#a3abb8;--c6:#d0b04c;--c7:#5fc0c8;
--good:#6cc08d;--bad:#ee8695;--open:#d9b850}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans",
"PingFang SC","Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:28px 18px 60px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3em;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:2.6em 0 .5em;padding-top:.6em;border-top:1px solid var(--rule);letter-spacing:-.005em}
h3{font-size:1rem;margin:1.6em 0 .4em}
p{max-width:72ch;margin:.5em 0}.lead{font-size:1.08rem}.soft{color:var(--soft)}small{font-size:.82rem}
nav{display:flex;flex-wrap:wrap;gap:.3em 1.1em;margin:1em 0 0;font-size:.92rem}
a{color:var(--c0);text-decoration-thickness:1px;text-underline-offset:2px}
.num{font-variant-numeric:tabular-nums}
ul.claims{list-style:none;padding:0;margin:1em 0;display:grid;gap:10px;
grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr))}
.claims li{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:10px 14px}
.claims b{font-weight:600}.claims p{margin:.2em 0 0;font-size:.95rem}
.chip{display:inline-block;font-size:.78rem;font-weight:600;border:1.5px solid currentColor;border-radius:99px;
padding:0 .65em;margin-right:.5em;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.none{color:var(--soft)}
.wide{overflow-x:auto;-webkit-overflow-scrolling:touch;margin:.8em 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:right;padding:5px 9px;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.84rem}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
td small{display:block;color:var(--soft);font-size:.78rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(330px,100%),1fr));gap:14px;margin:1em 0}
.plots>div{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:10px 8px 6px}
svg.plot{display:block;width:100%;height:auto;max-width:460px;margin:0 auto;font-family:inherit}
.prompt{margin:1.5em 0 0;padding-top:1em;border-top:1px solid var(--rule)}
.prompt:first-of-type{border-top:0}.prompt>p{margin:0 0 .5em;font-size:1.02rem;font-weight:600}
.prompt>p small{font-weight:400;color:var(--soft);margin-left:.6em}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:10px}
figure{margin:0}figure video,figure img{display:block;width:100%;aspect-ratio:var(--ar,1);background:#0002;
border-radius:4px;image-rendering:pixelated;cursor:pointer}
figcaption{font-size:.84rem;line-height:1.35;margin-top:4px}figcaption small{display:block;color:var(--soft)}
.tree,.tree ul{list-style:none;margin:0;padding-left:1.1em}.tree{padding-left:0;font-size:.9rem}
.tree li{border-left:1px solid var(--rule);padding:1px 0 1px .8em}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft)}
footer{margin-top:3.5em;padding-top:1em;border-top:1px solid var(--rule);font-size:.9rem;color:var(--soft)}
@media (max-width:560px){main{padding:18px 12px 40px}h1{font-size:1.5rem}.films{grid-template-columns:repeat(3,1fr)}}
@media print{figure video{print-color-adjust:exact}nav{display:none}}
"""
)

# A browser holds some dozens of players at a time. So a row of videos is loaded when it comes into view, started
# together, and let go of when it leaves.
SCRIPT = """
(()=>{
const still=matchMedia('(prefers-reduced-motion: reduce)').matches;
const show=row=>{for(const v of row.querySelectorAll('video')){
 if(!v.getAttribute('src')){v.src=v.dataset.src;v.load()}
 if(!still&&!row.dataset.paused)v.play().catch(()=>{v.controls=true})}};
const hide=row=>{for(const v of row.querySelectorAll('video')){v.pause();v.removeAttribute('src');v.load()}};
const rows=document.querySelectorAll('.films');
for(const v of document.querySelectorAll('video')){v.dataset.src=v.getAttribute('src');v.removeAttribute('src');
 v.controls=still}
for(const row of rows)row.addEventListener('click',e=>{if(!e.target.matches('video'))return;
 const videos=[...row.querySelectorAll('video')],stop=videos.some(v=>!v.paused);
 row.dataset.paused=stop?'1':'';
 for(const v of videos){if(stop)v.pause();else{v.currentTime=0;v.play()}}});
if('IntersectionObserver'in window){
 const seen=new IntersectionObserver(es=>{for(const e of es)(e.isIntersecting?show:hide)(e.target)},
  {rootMargin:'200px 0px'});
 for(const row of rows)seen.observe(row)}
else for(const row of rows)show(row);
})();
"""
