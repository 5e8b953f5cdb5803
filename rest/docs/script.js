// The page is whole without this. It adds a filter, buttons that copy, this server's
// address in the examples, and a mark in the contents at what is being read.
'use strict';

for (const code of document.querySelectorAll('pre code')) {
  if (code.firstElementChild) continue; // an answer
  let text = code.textContent.replaceAll('http://localhost:8080', location.origin);
  if (location.hostname !== 'localhost') {
    text = text.replace(/^mosquitto_(pub|sub)/gm, `mosquitto_$1 -h ${location.hostname}`);
  }
  code.textContent = text;
}

for (const caption of document.querySelectorAll('figcaption')) {
  if (!navigator.clipboard) break; // only over https and on this machine
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  button.setAttribute('aria-label', `Copy: ${caption.textContent}`);
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(caption.nextElementSibling.textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
  caption.append(button);
}

const box = document.querySelector('.filter');
const input = box.querySelector('input');
const parts = [...document.querySelectorAll('article, #problems tbody tr, #reasons tbody tr')]
  .map((element) => ({ element, text: element.textContent.toLowerCase() }));
const sections = [...document.querySelectorAll('main > section')];
const links = [...document.querySelectorAll('.side a')];
box.hidden = false;

function filter() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { element, text } of parts) element.hidden = !words.every((word) => text.includes(word));
  let any = false;
  for (const section of sections) {
    const inside = section.querySelectorAll('article, tbody tr[id], #reasons tbody tr');
    const shown = [...inside].some((element) => !element.hidden);
    section.hidden = words.length > 0 && !shown;
    any ||= !section.hidden;
  }
  for (const link of links) {
    const target = document.getElementById(link.hash.slice(1));
    link.parentElement.hidden = Boolean(target?.hidden);
  }
  document.getElementById('nothing').hidden = any;
}
input.addEventListener('input', filter);
document.addEventListener('keydown', (event) => {
  if (event.key === '/' && document.activeElement !== input && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    input.focus();
  } else if (event.key === 'Escape' && document.activeElement === input) {
    input.value = '';
    filter();
  }
});

const byTarget = new Map(links.map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links) link.removeAttribute('aria-current');
    const link = byTarget.get(entry.target.id);
    link?.setAttribute('aria-current', 'true');
    link?.scrollIntoView({ block: 'nearest' });
  }
}, { rootMargin: '-20% 0px -70% 0px' });
for (const id of byTarget.keys()) {
  const target = document.getElementById(id);
  if (target) seen.observe(target);
}
