// The lines work as they are on the server's own machine. Elsewhere they need its address.
for (const line of document.querySelectorAll('.curl code')) {
  line.textContent = line.textContent.replace('http://localhost:5000', location.origin);
  const button = document.createElement('button');
  button.textContent = 'Copy';
  button.onclick = () => {
    // navigator.clipboard is missing on pages without TLS.
    getSelection().selectAllChildren(line);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Press Ctrl+C';
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  };
  line.parentElement.after(button);
}
// A link to an operation opens it.
const open = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.tagName === 'DETAILS') target.open = true;
};
addEventListener('hashchange', open);
open();
