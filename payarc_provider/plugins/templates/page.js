// Inside Airflow's frame: follow Airflow's theme, and have Airflow open its own pages (the frame may not).
try {
  const airflow = window.parent.document;
  if (airflow !== document) {
    const applyTheme = () => {
      document.documentElement.dataset.theme = airflow.documentElement.classList.contains("dark") ? "dark" : "light";
    };
    applyTheme();
    new MutationObserver(applyTheme).observe(airflow.documentElement, { attributeFilter: ["class"] });
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[target=_top]");
      if (!link) return;
      event.preventDefault();
      const outside = airflow.createElement("a");
      outside.href = link.href;
      airflow.body.append(outside);
      outside.click();
      outside.remove();
    });
  }
} catch {
  // The frame belongs to another site, which this page does not support.
}
