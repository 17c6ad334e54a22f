// In Airflow's frame: wear Airflow's theme, and open Airflow's pages in Airflow (the frame itself may not).
try {
  const airflow = window.parent.document;
  if (airflow !== document) {
    const wear = () => {
      document.documentElement.dataset.theme = airflow.documentElement.classList.contains("dark") ? "dark" : "light";
    };
    wear();
    new MutationObserver(wear).observe(airflow.documentElement, { attributeFilter: ["class"] });
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
  // Another site's frame, which this page is not for.
}
