// Shows the step of each slider, and what the pointer is on. Every text and place comes from the page's data.
"use strict";
document.documentElement.classList.add("scripted");
for (const section of document.querySelectorAll("[data-answer]")) {
  const { steps, marks } = JSON.parse(section.querySelector("script").textContent);
  const slider = section.querySelector("input");
  const show = () => {
    const step = steps[slider.value];
    for (const place of section.querySelectorAll("[data-field]")) place.textContent = step[place.dataset.field];
    section.querySelector("[data-reply]").hidden = step.reason !== "";
    slider.setAttribute("aria-valuetext", section.querySelector("output").textContent);
    for (const [name, places] of Object.entries(marks)) {
      const mark = section.querySelector("svg." + name + " .mark");
      const at = step.reason === "" ? places[slider.value] : null;
      mark.setAttribute("visibility", at ? "visible" : "hidden");
      if (at) { mark.setAttribute("cx", at[0]); mark.setAttribute("cy", at[1]); }
    }
  };
  if (slider) { slider.addEventListener("input", show); show(); }
}
for (const chart of document.querySelectorAll(".chart")) {
  const line = chart.querySelector(".told-line");
  let told = null;
  for (const title of chart.querySelectorAll("svg title")) {
    const point = title.parentElement;
    point.dataset.said = title.textContent;
    title.remove(); // the line below the figure says it at once, also where there is no pointer to rest
  }
  const tell = (event) => {
    const point = event.target.closest("[data-said]");
    if (!point) return;
    if (told) told.classList.remove("told");
    told = point;
    point.classList.add("told");
    line.textContent = point.dataset.said;
  };
  chart.addEventListener("pointerover", tell);
  chart.addEventListener("click", tell);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
