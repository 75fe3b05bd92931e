// A link with the token after the # signs in by itself; the token never travels in an address.

document.getElementById("refused").hidden = location.search !== "?refused";
if (location.hash.length > 1) {
  document.getElementById("token").value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  document.querySelector("form").requestSubmit();
}
