// The theme gives its search dialog no name, which screen readers ask for.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
