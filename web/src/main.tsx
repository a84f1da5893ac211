import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { SocketContext } from "./lib/hooks";
import { Socket } from "./lib/socket";
import { Notices } from "./parts/Notices";
import "./style.css";

const socket = new Socket(`${location.origin.replace(/^http/, "ws")}/ws`);
const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");

createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={new QueryClient()}>
      <SocketContext value={socket}>
        <Notices>
          <App />
        </Notices>
      </SocketContext>
    </QueryClientProvider>
  </StrictMode>,
);
