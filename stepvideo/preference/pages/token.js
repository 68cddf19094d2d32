// A token given in the address, after #, which no server is told: into the tab, and out of the address bar.

addEventListener("hashchange", () => { if (takeToken()) start(); }); // a link opened while the page is

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return false;
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname);
  return true;
}
