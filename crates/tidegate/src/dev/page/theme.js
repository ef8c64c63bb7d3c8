// Not a module, so that it runs before the first paint and the chosen colours do not flash.
(() => {
  const key = "tidegate-theme";
  const order = ["auto", "light", "dark"];
  const stored = () => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  let theme = order.includes(stored()) ? stored() : "auto";
  apply(theme);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.textContent = theme;
    button.addEventListener("click", () => {
      theme = order[(order.indexOf(theme) + 1) % order.length];
      apply(theme);
      button.textContent = theme;
      try { localStorage.setItem(key, theme); } catch { /* private mode: the choice lasts until the reload */ }
    });
  });
})();
