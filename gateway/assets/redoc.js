const sans = "system-ui, sans-serif";
const mono = "ui-monospace, monospace";

Redoc.init(
  "/openapi.json",
  {
    nativeScrollbars: true,
    theme: { typography: { fontFamily: sans, headings: { fontFamily: sans }, code: { fontFamily: mono } } },
  },
  document.getElementById("docs"),
);
