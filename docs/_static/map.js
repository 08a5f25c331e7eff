// The map of the modules: the module that is pointed at says what it is for, and what it imports is marked.
document.addEventListener("DOMContentLoaded", () => {
  for (const map of document.querySelectorAll(".module-map")) {
    const modules = [...map.querySelectorAll(".module")];
    const charter = map.querySelector(".module-charter");
    const choose = (chosen) => {
      const used = chosen.dataset.imports.split(" ");
      for (const module of modules) {
        module.classList.toggle("chosen", module === chosen);
        module.classList.toggle("used", used.includes(module.dataset.name));
      }
      charter.textContent = `${chosen.dataset.name}: ${chosen.dataset.charter}`;
    };
    for (const module of modules) {
      for (const event of ["pointerenter", "focus", "click"]) module.addEventListener(event, () => choose(module));
    }
  }
});
