const tip = document.getElementById("tip");
document.addEventListener("mousemove", (event) => {
  const cell = event.target.closest ? event.target.closest("[data-tip]") : null;
  if (!cell) { tip.hidden = true; return; }
  tip.textContent = cell.getAttribute("data-tip");
  tip.hidden = false;
  const wide = tip.offsetWidth, right = event.clientX + 14 + wide > window.innerWidth;
  tip.style.left = (right ? event.clientX - wide - 10 : event.clientX + 14) + "px";
  tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 4) + "px";
});
