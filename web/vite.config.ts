import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const gateway = process.env.TIDEBOOK_GATEWAY ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react()],
  build: { outDir: "dist", sourcemap: false, chunkSizeWarningLimit: 700 },
  server: {
    proxy: {
      "/v1": gateway,
      "/dev": gateway,
      "/ws": { target: gateway.replace("http", "ws"), ws: true },
    },
  },
});
