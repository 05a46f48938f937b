// Outputs of notebooks follow the notebook's theme by this attribute: give them the site's.
const told = () => {
  const dark = document.body.getAttribute("data-md-color-scheme") === "slate";
  document.body.setAttribute("data-jp-theme-light", String(!dark));
};
told();
new MutationObserver(told).observe(document.body, {attributeFilter: ["data-md-color-scheme"]});
