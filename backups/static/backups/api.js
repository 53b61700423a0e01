// Swagger UI for the REST API, authenticated by the session. Loads nothing from other hosts.
"use strict";

(() => {
  const main = document.getElementById("api");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", follow);
  follow();
  SwaggerUIBundle({
    url: main.dataset.schema,
    domNode: main,
    deepLinking: true,
    filter: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    persistAuthorization: false,
    requestInterceptor: (request) => {
      // If a token was entered, the session is not sent.
      if (request.headers.Authorization) request.credentials = "omit";
      else if (!["GET", "HEAD"].includes((request.method || "GET").toUpperCase())) {
        request.headers["X-CSRFToken"] = document.querySelector('meta[name="csrf-token"]').content;
      }
      return request;
    },
  });
})();
