// What the manager of widgets needs in a book that works offline; it is read before RequireJS.

// It looks for the font of its icons beside its modules: say that they are in the one file that holds them.
const embed = new URL(document.documentElement.dataset.content_root + "_static/widgets/embed-amd", document.baseURI).href;
window.require = {
  paths: { "@jupyter-widgets/html-manager": embed, "@jupyter-widgets/html-manager/dist/libembed-amd": embed },
};

// It asks MathJax 2 for its formulas, by MathJax.Hub, which MathJax 3 lacks; it draws after the load event.
window.addEventListener("load", () => {
  const mathjax = window.MathJax;
  if (!mathjax || !mathjax.startup || mathjax.Hub) return;
  const typeset = (element) => mathjax.startup.promise.then(() => mathjax.typesetPromise([element]));
  mathjax.Hub = { Queue: ([, , element]) => typeset(element) };
});

// A stack throws away the view that it showed, and messages to that still wait in the queue; the manager then reads the
// view that is gone. A message to what is disposed of is no error.
window.addEventListener("load", () => {
  if (typeof window.require !== "function" || !window.require.defined) return;
  window.require(["@jupyter-widgets/base"], (base) => {
    for (const kind of [base.JupyterLuminoWidget, base.JupyterLuminoPanelWidget]) {
      const process = kind.prototype.processMessage;
      kind.prototype.processMessage = function (message) {
        if (!this.isDisposed) process.call(this, message);
      };
    }
  });
});
